"""How the page looks: light and dark, on a phone, on paper."""

CSS = """
:root{--paper:#fff;--card:#f5f6f8;--ink:#1d2330;--soft:#566072;--rule:#dde1e7;
--base:#667085;--kd:#0a63c2;--alone:#0f766e;--teach:#b4530a;--good:#15803d;--bad:#b42318}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1d2128;--ink:#e7e9ec;--soft:#a0a9b6;
--rule:#363d48;--base:#a3acba;--kd:#6aaefc;--alone:#4fd1c5;--teach:#f2ad58;--good:#56d68a;--bad:#ff8a80}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:24px 20px 48px;max-width:1080px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}
h2{font-size:1.15rem;margin:2.4rem 0 .5rem;padding-top:.7rem;border-top:1px solid var(--rule)}
h3{font-size:.95rem;margin:1.2rem 0 .3rem}
p{margin:.4rem 0}
.headline{font-size:1.12rem;max-width:46em}
.note,.legend{color:var(--soft);font-size:.86rem;max-width:64em}
.absent{color:var(--soft);font-style:italic}
.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:1rem 0}
.tile{background:var(--card);border-radius:8px;padding:10px 12px}
.tile b{display:block;font-size:1.45rem;line-height:1.2}
.tile span{color:var(--soft);font-size:.82rem;display:block;line-height:1.35}
.legend span{display:inline-block;margin-right:1.1em;white-space:nowrap}
.legend svg{vertical-align:-2px}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:6px 8px;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
td small{display:block;color:var(--soft);white-space:nowrap}
tr.best td:first-child{font-weight:700}
svg{overflow:visible;display:block}
.legend svg{display:inline-block}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink)}
svg text.tick,.tick{fill:var(--soft);color:var(--soft);font-size:11px}
svg text.on{fill:var(--paper)}
svg text.over{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.grid{stroke:var(--rule);stroke-width:1}
.frame{fill:none;stroke:var(--rule)}
.zero{stroke:var(--soft);stroke-width:1}
.link{stroke:var(--soft);stroke-width:2;opacity:.45}
.whisker{stroke-width:2}
.baseline{--own:var(--base)}.distilled{--own:var(--kd)}.alone{--own:var(--alone)}.teacher{--own:var(--teach)}
.mark{fill:var(--own);stroke:var(--own);stroke-width:2}
.mark.baseline{fill:var(--paper)}
.mark.seed{fill:var(--own);stroke:none;opacity:.55}
.whisker{stroke:var(--own)}
polyline{fill:none;stroke:var(--own);vector-effect:non-scaling-stroke}
polyline.seed{stroke-width:1;opacity:.32}
polyline.mean{stroke-width:2}
polyline.front{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 4;opacity:.8}
rect.part{stroke:var(--paper);stroke-width:1}
.part.data{fill:#b4530a}.part.teacher{fill:#d9a441}.part.student{fill:#0a63c2}.part.methods{fill:#7c5cc4}
.part.backward{fill:#5b9bd5}.part.optimiser{fill:#0f766e}.part.other{fill:#98a2b3}
.heat{overflow-x:auto}.heat table{width:auto;font-size:.88rem}
.heat th{font-weight:500;white-space:nowrap}.heat td,.heat th{display:table-cell;padding:8px 14px;width:auto}
.heat td.warm{background:color-mix(in srgb,var(--kd) var(--full),var(--paper));text-align:center}
.heat td.own{outline:2px solid var(--ink);outline-offset:-2px;font-weight:700}
rect.right{fill:var(--kd)}rect.wrong{fill:var(--bad)}
.dots{display:grid;grid-template-columns:minmax(90px,max-content) minmax(120px,1fr) max-content;column-gap:16px;
align-items:center;margin:.6rem 0}
.dots .name{font-size:.88rem;max-width:20em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.dots .value{font-size:.85rem;white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:4px 20px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:8px 28px}
.pair>div{max-width:620px}
dt{max-width:24em}
figure{margin:0}
figcaption{font-size:.86rem;color:var(--soft)}
.videos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:14px 24px}
.video{background:var(--card);border-radius:8px;padding:10px 12px}
.video h4{margin:0;font-size:.9rem}
.video p{font-size:.84rem;margin:.15rem 0 .4rem}
.seen{display:grid;grid-template-columns:80px minmax(0,1fr);gap:2px 8px;align-items:end;margin-top:4px}
.seen figcaption{grid-column:1/-1}
.seen img{width:100%;height:auto;display:block;border-radius:3px}
.seen .strip{max-width:480px}
.seen .alone{grid-column:1/-1}
.attended{width:100%;height:auto;display:block;box-sizing:border-box;padding:0 14px 0 44px}
.pixels{image-rendering:pixelated}
code,pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--card);border-radius:8px;padding:10px 12px;white-space:pre-wrap;
overflow-wrap:anywhere;margin:.4rem 0}
details{margin:.4rem 0}summary{cursor:pointer;color:var(--soft);font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;font-size:.88rem;margin:.4rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media screen and (max-width:820px){
table,tbody,tr,td{display:block;width:100%}thead{position:absolute;left:-9999px}
tr{background:var(--card);border-radius:8px;padding:8px 12px;margin:10px 0}
tr{display:grid;grid-template-columns:1fr 1fr;column-gap:20px}
td{display:flex;justify-content:space-between;gap:8px;border:0;padding:2px 0}
td:first-child{font-weight:700}td:nth-child(-n+4),.wide td{grid-column:1/-1}td:empty{display:none}
td:not(:first-child)::before{content:attr(data-of);color:var(--soft);text-align:left}
td small{display:inline}td::before{flex:1}
.heat table{display:table}.heat tbody{display:table-row-group}.heat thead{position:static}
.heat tr{display:table-row;background:none}.heat td:first-child{font-weight:400}
}
@media screen and (max-width:640px){
body{padding:16px 14px 40px}
dl{grid-template-columns:1fr}dd{margin-bottom:6px}
.dots{grid-template-columns:minmax(0,1fr) max-content;column-gap:10px;padding:0 8px;
grid-auto-flow:dense;align-items:end}
.dots .name{max-width:none;white-space:normal;line-height:1.2;padding-top:8px;margin-left:-8px}
.dots .value{margin-right:-8px;line-height:1.2}.dots>svg{grid-column:1/-1}
.dots .none{display:none}.dots .unit{order:1;grid-column:1/-1;text-align:right;line-height:1}
}
@media (prefers-reduced-motion:reduce){.seen .moving{display:none}.seen{grid-template-columns:minmax(0,1fr)}}
@media print{
body{max-width:none;padding:0;font-size:10.5pt}table{font-size:8pt}th,td{padding:3px 4px}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.seen .moving{display:none}.seen{grid-template-columns:minmax(0,1fr)}
figure,.video,tr,.plot,.dots,.tile,.note{break-inside:avoid}
h2,h3,.note,.legend{break-after:avoid}.pair{grid-template-columns:repeat(2,minmax(0,1fr))}
.videos{display:block;break-before:avoid}.video{display:inline-block;width:48.5%;margin:0 1% 10px 0;vertical-align:top}
.panels{grid-template-columns:repeat(3,1fr)}
}
"""
