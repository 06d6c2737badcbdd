"""The section that tells motion from appearance: the same networks on frames without their order, and on one frame."""

from vidkd.report.material import LeftOut, Material, Row
from vidkd.report.svg import esc

TIMES = {"as_is": "as it is", "shuffled": "frames shuffled", "static": "one frame, repeated"}


def probes(m: Material) -> str:
    """A line a row: its figure, and what is left of it without the order of the frames, and without motion. LeftOut,
    with the command, where vidkd.probe was not run."""
    rows = {row: found for row in (*m.first, *m.rows) if len(found := probed(row)) == len(TIMES)}
    if not rows:
        raise LeftOut(f"python -m vidkd.probe {m.dir} finds it out, and how other resolutions and frames do.")
    heads = "".join(f"<th>{esc(head)}</th>" for head in ("", *TIMES.values(), "lost by shuffling", "lost by standing"))
    lines = ""
    for row, found in rows.items():
        lost = [found["as_is"] - found[time] for time in ("shuffled", "static")]
        cells = [esc(row.name), *(f"{found[time]:.1%}" for time in TIMES), *(f"{100 * v:.1f} points" for v in lost)]
        names = ("", *TIMES.values(), "lost by shuffling", "lost by standing")
        told = "".join(f'<td data-of="{esc(head)}">{cell}</td>' for head, cell in zip(names, cells, strict=True))
        lines += f"<tr>{told}</tr>"
    table = f'<table class="wide"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    note = (
        "What is left with one frame is appearance; what shuffling takes is the order of the frames, that is motion. "
        "The networks were trained on whole clips: some of a loss is that such clips are new to them."
    )
    return f'{_gained(m, rows)}<p class="note">{esc(note)}</p>{table}'


def probed(row: Row) -> dict[str, float]:
    """Time -> the figure at the size that the row was trained at, mean over its probed seeds."""
    every: dict[str, list[float]] = {}
    for cell in row.cells:
        for entry in cell.probe:
            if entry["own_size"]:
                every.setdefault(entry["time"], []).append(entry[row.primary])
    return {time: sum(values) / len(values) for time, values in every.items()}


def _gained(m: Material, rows: dict[Row, dict[str, float]]) -> str:
    """What of the gain is left, in a sentence; "" where there is nothing to compare."""
    if m.baseline is None or m.best is m.baseline or not {m.baseline, m.best} <= rows.keys():
        return ""
    gain = {time: 100 * (rows[m.best][time] - rows[m.baseline][time]) for time in TIMES}
    said = (
        f"Of the {gain['as_is']:+.1f} points that {m.best.name} has over {m.baseline.name}, {gain['shuffled']:+.1f} "
        f"are left when the frames are shuffled and {gain['static']:+.1f} when one stands still: "
    )
    if gain["as_is"] <= 0:
        return f"<p>{esc(said.removesuffix(': '))}.</p>"
    moved = max(gain["as_is"] - max(gain["static"], 0.0), 0.0) / gain["as_is"]
    return f"<p>{esc(said)}about {100 * min(moved, 1):.0f} % of the gain needs motion.</p>"
