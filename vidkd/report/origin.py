"""The sections that say where the figures come from: protocol, commands, versions, configuration."""

import json
import shlex
from typing import Any

from vidkd import run_dir
from vidkd.config import Degrade
from vidkd.report.material import LeftOut, Material, Row
from vidkd.report.svg import esc

OPEN_COMMANDS = 12  # more than that are folded, but for the first seed's


def protocol(m: Material) -> str:
    """What was scored, and how, for every network."""
    found: dict[str, list[str]] = {}
    for row in m.lines:
        if p := row.line.get("protocol"):
            found.setdefault(_protocol_line(p), []).append(row.name)
    if not found:
        raise LeftOut("no run is finished.")
    items = (f"<dt>{esc('; '.join(names))}</dt><dd>{esc(line)}</dd>" for line, names in found.items())
    return f"<dl>{''.join(items)}</dl>"


def _protocol_line(p: dict[str, Any]) -> str:
    covered = p["coverage"]
    as_it_is = Degrade().model_dump()
    worse = [f"{key} {value}" for key, value in p.get("degrade", {}).items() if value != as_it_is.get(key)]
    return (
        f"{p['network']} on {p['data_set']} {p['split']} {p['part']}, "
        f"{covered['scored']}/{covered['expected']} videos, "
        f"{p['frames']} frames every {p['stride']} at {p['size_px']} px, {p['clips']}×{p['crops']} views a video, "
        f"precision {p['mixed_precision']}, decoder {p['decoder']}, index {p['index_sha256'][:12]}"
        + (f", degraded: {', '.join(worse)}" if worse else "")
    )


def commands(m: Material) -> str:
    """What to type to get these runs again."""
    if not m.is_bench:
        again = f"python -m vidkd.train {shlex.quote(str(m.dir / 'config.yaml'))}"
        return f"<pre>{esc(again)}</pre>{_config(m.best)}"
    every = [_command(row, cell.seed) for row in (*m.first, *m.rows) for cell in row.cells]
    if not every:
        raise LeftOut("no run of the bench is there.")
    note = f"What vidkd.bench ran for “{m.name}”; each folder’s config.yaml holds the whole configuration of its run."
    shown, folded = every, ""
    if len(every) > OPEN_COMMANDS:
        shown = [_command(row, row.cells[0].seed) for row in (*m.first, *m.rows) if row.cells]
        folded = f"<details><summary>all {len(every)} commands</summary>{_pre(every)}</details>"
    return f'<p class="note">{esc(note)}</p>{_pre(shown)}{folded}{_config(m.best)}'


def _pre(lines: list[str]) -> str:
    return "<pre>" + esc("\n".join(lines)) + "</pre>"


def _command(row: Row, seed: int) -> str:
    said = {"name": f"{run_dir.slug(row.name)}_seed{seed}", "seed": seed, "out": f"{row.out}/seed{seed}", **row.set}
    pairs = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in said.items()]
    return shlex.join(["python", "-m", "vidkd.train", row.config, *pairs])


def _config(row: Row) -> str:
    """The configuration of the best row, folded."""
    for cell in row.cells:
        path = cell.dir / "config.yaml"
        if path.is_file():
            said = path.read_text(encoding="utf-8", errors="replace")
            return f"<details><summary>{esc(path)}</summary><pre>{esc(said)}</pre></details>"
    return ""


def versions(m: Material) -> str:
    """The environment of the runs; where they differ, every one of them."""
    found: dict[str, list[str]] = {}
    for row in (*m.first, *m.rows):
        for cell in row.cells:
            if "environment" in cell.results:
                key = json.dumps(cell.results["environment"], sort_keys=True)
                found.setdefault(key, []).append(f"{row.name}, seed {cell.seed}")
    if not found:
        raise LeftOut("no results.json names its environment.")
    parts = []
    for key, who in found.items():
        title = f"<h3>{esc('; '.join(who))}</h3>" if len(found) > 1 else ""
        parts.append(f"{title}<dl>{_flat(json.loads(key))}</dl>")
    return "".join(parts)


def _flat(environment: dict[str, Any]) -> str:
    items = []
    for key, value in environment.items():
        said = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        items.append(f"<dt>{esc(key)}</dt><dd>{esc('none' if said is None else said)}</dd>")
    return "".join(items)
