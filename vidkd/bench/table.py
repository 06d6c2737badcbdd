"""The table of a finished grid: for people (Markdown, HTML) and for programs (CSV, bench.json)."""

import csv
import html
import io
import json
from typing import Any

from vidkd import checkpoint, config_file, distiller, intervals, outcome, results, run_dir
from vidkd.bench.grid import Cell, cells
from vidkd.bench.sections import Bench
from vidkd.errors import DataError
from vidkd.intervals import Interval
from vidkd.outcome import Outcome

BUDGET: Any = {"train": {"steps", "batch_size", "accumulate"}, "data": {"seed", "train", "split"}}
STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem;overflow-x:auto}"
    "table{border-collapse:collapse}th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid #8886;"
    "font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left}td small{display:block;opacity:.7}"
)


def write(bench: Bench) -> str:
    """Write table.md, table.csv, table.html and bench.json into the grid's folder; the first of them."""
    table = rows_of(bench)
    markdown = as_markdown(table)
    checkpoint.write_atomic(bench.out / "table.md", (markdown + "\n").encode())
    checkpoint.write_atomic(bench.out / "table.csv", as_csv(table).encode())
    checkpoint.write_atomic(bench.out / "table.html", as_html(bench.name, table).encode())
    summary = {"bench": bench.model_dump(mode="json"), "rows": table}
    checkpoint.write_atomic(bench.out / "bench.json", (json.dumps(summary, indent=1) + "\n").encode())
    return markdown


def rows_of(bench: Bench) -> list[dict[str, Any]]:
    """One dict a row. DataError if a row was not scored on the videos of its baseline, or not in the same way."""
    every = (*bench.first, *bench.rows)
    read = {row.name: [outcome.read(cell.out) for cell in cells(bench, (row,))] for row in every}
    baselines = {row.name: bench.baseline_of(row).name if row in bench.rows else bench.baseline for row in every}
    for row in every:
        for own in read[row.name]:
            _check(row.name, own, baselines[row.name], read[baselines[row.name]][0], strict=row in bench.rows)
    speeds: dict[str, dict[str, Any]] = {}
    figures = {name: [own.answers.figure for own in seeds] for name, seeds in read.items()}
    table = []
    for row in every:
        own, baseline = cells(bench, (row,)), baselines[row.name]
        reference = read[baseline][0]
        n, key = len(reference.answers.videos), reference.task.primary
        value = intervals.mean_interval(figures[row.name], n)
        line: dict[str, Any] = {"row": row.name, "seeds": len(own), key: value.mean}
        line |= {f"{key}_low": value.low, f"{key}_high": value.high, "primary": key, "title": reference.task.title}
        if row in bench.rows:
            line["baseline"] = baseline
            if unequal := _unequal(own, cells(bench, (bench.baseline_of(row),))):
                line["unequal"] = f"was not trained as {baseline!r}, which it is compared with: {'; '.join(unequal)}"
        if row in bench.rows and row.name != baseline:
            gain = intervals.gain_interval(figures[row.name], figures[baseline], n)
            line |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
            line |= _recovered(own[0], figures[row.name], figures[baseline], n)
        if (taught := outcome.results_of(own[0].out).get("teacher")) and row in bench.rows:
            line["teacher"] = _teacher(taught["protocol"], {r.name: read[r.name][0].protocol for r in bench.first})
        line |= speed(own[0], len(reference.task.classes), speeds)
        line["training_s"] = sum(outcome.results_of(cell.out)["training_s"] for cell in own) / len(own)
        line["protocol"] = read[row.name][0].protocol
        table.append(line)
    return table


def _check(name: str, own: Outcome, baseline: str, reference: Outcome, *, strict: bool) -> None:
    """Rows are compared with the baseline in all but their network and its view; what came first (a teacher) may have
    been scored in its own way, on the same videos."""
    if own.task.primary != reference.task.primary or own.answers.videos != reference.answers.videos:
        raise DataError(f"{name!r} was not scored on the videos of {baseline!r}: they cannot be compared")
    free = (*outcome.NETWORK, *outcome.VIEW)
    if strict and (found := outcome.unlike(own.protocol, reference.protocol, free)):
        raise DataError(f"{name!r} and {baseline!r} cannot be compared: {'; '.join(found)}")


def _unequal(own: list[Cell], baseline: list[Cell]) -> list[str]:
    """In what two rows' budgets, seeds and order of the data differ, as they were trained."""
    a, b = (
        {"seeds": [cell.seed for cell in side]}
        | config_file.load(side[0].out / "config.yaml").model_dump(mode="json", include=BUDGET)
        for side in (own, baseline)
    )
    return run_dir.differences(a, b)


def _recovered(cell: Cell, figures: list[intervals.Figure], baseline: list[intervals.Figure], n: int) -> dict[str, Any]:
    """How much of its own teacher's lead over the baseline the row has made up; {} without a teacher that leads."""
    if "teacher" not in outcome.results_of(cell.out):
        return {}
    teacher = outcome.read(cell.out, "teacher").answers.figure
    share = intervals.recovered_interval(figures, baseline, teacher, n)
    return {} if share is None else {"recovered": share.mean, "recovered_low": share.low, "recovered_high": share.high}


def _teacher(protocol: dict[str, Any], first: dict[str, dict[str, Any]]) -> str:
    """The name of the row that is the network of that protocol; of one that was not trained here, its network's."""
    return next((n for n, p in first.items() if outcome.same_network(p, protocol)), str(protocol["network"]))


def speed(cell: Cell, num_classes: int, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Cost of the row's network, measured here, where no other cell of this bench runs beside it.

    `known`: what was measured before, to which this adds. Rows of one network at one size have one speed: two
    measurements would differ by what else the machine does, and look like a gain.
    """
    run = config_file.load(cell.out / "config.yaml")
    frames, size_px = run.student.view.frames or run.data.clip.frames, run.student.view.size_px
    which = run.student.model_dump_json(include={"name", "options", "attention"}) + f" {frames} {size_px}"
    if which not in known:
        bare = run.student.model_copy(update={"weights": None})
        network, _ = distiller.build_network(bare, num_classes, run.data.clip.frames)
        known[which] = results.measure(network, frames, size_px)
    return known[which]


def _heads(table: list[dict[str, Any]]) -> list[str]:
    title = f"{table[0]['title']}, mean and 95 % interval"
    return ["", title, "gain over the baseline, points", "% of the teacher gap recovered", "seeds", "input",
            "parameters", "GMACs", "clips/s", "training"]  # fmt: skip


def _cells(line: dict[str, Any], table: list[dict[str, Any]]) -> list[str]:
    """A line of the table, as text; whose lead a share is of, where the rows have several teachers."""
    key, p = line["primary"], line["protocol"]

    def points(name: str, sign: str = "+") -> str:
        if name not in line:
            return ""
        mean, low, high = (100 * line[name + end] for end in ("", "_low", "_high"))
        return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"

    several = len(taught_by(table)) > 1
    return [
        line["row"],
        str(Interval(line[key], line[f"{key}_low"], line[f"{key}_high"])),
        points("gain"),
        points("recovered", "") + (f" of {line['teacher']}" if several and "recovered" in line else ""),
        str(line["seeds"]),
        f"{p['frames']}x{p['size_px']}x{p['size_px']}",
        f"{line['parameters']:,}",
        f"{line['gmacs']:.3f}",
        f"{line['clips_per_s']:.0f}",
        f"{line['training_s']:.0f} s",
    ]


def groups(table: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines by title: all under "" where there is one baseline, else those of each, behind what came first."""
    if len({line["baseline"] for line in table if "baseline" in line}) <= 1:
        return {"": table}
    made: dict[str, list[dict[str, Any]]] = {}
    for line in table:
        made.setdefault(f"Compared with {line['baseline']}" if "baseline" in line else "", []).append(line)
    return made


def as_markdown(table: list[dict[str, Any]]) -> str:
    """For people."""
    heads, parts = _heads(table), []
    for title, group in groups(table).items():
        lines = [heads, ["---"] * len(heads), *(_cells(line, table) for line in group)]
        parts.append((f"### {title}\n\n" if title else "") + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, *notes(table)])


def notes(table: list[dict[str, Any]]) -> list[str]:
    """What has to be said below the table: whose gap it is, and which figures are not got by equal means."""
    teachers, others = taught_by(table), [line["row"] for line in table if "baseline" not in line]
    gap = f"The gap is that to {teachers[0]!r}, which taught the others." if len(teachers) == 1 < len(others) else ""
    return [gap] * bool(gap) + [f"careful: {line['row']!r} {line['unequal']}" for line in table if "unequal" in line]


def taught_by(table: list[dict[str, Any]]) -> list[str]:
    """The names of the teachers of its lines."""
    return list(dict.fromkeys(line["teacher"] for line in table if "teacher" in line))


def as_html(name: str, table: list[dict[str, Any]]) -> str:
    """The same as a page of its own, to be mailed or pasted."""
    head = "".join(f"<th>{html.escape(head)}</th>" for head in _heads(table))
    body = ""
    for title, group in groups(table).items():
        body += f"<h2>{html.escape(title)}</h2>" if title else ""
        body += f"<table><thead><tr>{head}</tr></thead>\n<tbody>"
        for line in group:
            told = map(html.escape, _cells(line, table))
            said = (cell.replace(" [", "<small>[").replace("]", "]</small>") for cell in told)
            body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in said)}</tr>\n"
        body += "</tbody></table>"
    body += "".join(f"<p>{html.escape(line)}</p>" for line in notes(table))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(name)}</h1>{body}</body></html>\n"
    )


def as_csv(table: list[dict[str, Any]]) -> str:
    """For programs: every number of the table."""
    keys = [k for k in dict.fromkeys(key for line in table for key in line) if k != "protocol"]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return sink.getvalue()
