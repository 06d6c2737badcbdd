"""The page: its sections in their order, and the shell around them."""

from collections.abc import Callable

from vidkd.errors import VidkdError
from vidkd.report import attention, classes, costs, gains, maps, origin, probes, training, videos
from vidkd.report.material import LeftOut, Material
from vidkd.report.style import CSS
from vidkd.report.svg import esc

Section = Callable[[Material], str]
SECTIONS: tuple[tuple[str, str, Section], ...] = (  # title on the page of a bench, on that of a run ("": not there)
    ("What was gained", "What was reached", gains.headline),
    ("The table", "The table", gains.table),
    ("Accuracy", "", gains.accuracy),
    ("Accuracy and cost", "", costs.cost),
    ("Resolution and frames", "Resolution and frames", costs.surface),
    ("Gain by class", "", classes.gain),
    ("Accuracy by class", "Accuracy by class", classes.per_class),
    ("What is taken for what", "What is taken for what", classes.confusion),
    ("Videos fixed and broken by distillation", "Some test videos", videos.videos),
    ("Motion or appearance", "Motion or appearance", probes.probes),
    ("Attention over time", "Attention over time", attention.attention),
    ("Feature maps", "Feature maps", maps.maps),
    ("Learning curves", "Learning curves", training.curves),
    ("Where the time went", "Where the time went", training.time_spent),
    ("Protocol", "Protocol", origin.protocol),
    ("Commands", "Commands", origin.commands),
    ("Versions", "Versions", origin.versions),
)
BENCH = {title: section for title, _, section in SECTIONS}
RUN = {title: section for _, title, section in SECTIONS if title}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing is ever fetched


def page(m: Material) -> tuple[str, dict[str, str]]:
    """The page, and the sections that it had to leave out with the reason."""
    parts, left_out = [], {}
    for i, (title, section) in enumerate((BENCH if m.is_bench else RUN).items()):
        head = "" if i == 0 else f"<h2>{esc(title)}</h2>"
        try:
            body = section(m)
        except LeftOut as reason:
            left_out[title] = str(reason)
        except VidkdError as error:
            left_out[title] = str(error)
        except (LookupError, TypeError, ValueError, ArithmeticError, OSError) as error:
            # One odd file must not cost the rest of the page; which one it was is said on it.
            left_out[title] = f"a file is not as vidkd writes it ({type(error).__name__}: {error})"
        else:
            if body:  # a run may have nothing of the kind
                parts.append(f"<section>{head}{body}</section>")
    if left_out:
        reasons = "".join(f"<dt>{esc(title)}</dt><dd>{esc(reason)}</dd>" for title, reason in left_out.items())
        parts.append(f"<section><h2>Left out</h2><dl>{reasons}</dl></section>")
    what = "bench" if m.is_bench else "run"
    return _shell(f"{m.name} · vidkd {what}", m.name, "\n".join(parts)), left_out


def _shell(title: str, name: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{esc(title)}</title>\n<style>{CSS}</style></head>\n"
        f"<body><main><h1>{esc(name)}</h1>\n{body}\n</main></body></html>\n"
    )
