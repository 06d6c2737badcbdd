"""What every section that shows single clips shares: one seed of one row, its scored videos, and a card a video."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vidkd.config import Run
from vidkd.data import clips, index
from vidkd.data.index import Part
from vidkd.errors import VidkdError
from vidkd.report.material import Cell, LeftOut, Material, Row
from vidkd.report.svg import esc

Views = dict[str, Tensor]  # network -> [V, 3, T, H, W] uint8


@dataclass(frozen=True)
class Shown:
    """The run whose clips are shown, and the videos that it was scored on."""

    cell: Cell
    part: Part
    classes: tuple[str, ...]
    row: str = ""  # its name, where it is not the best one

    @property
    def run(self) -> Run:
        return self.cell.run

    def views(self, i: int) -> Views:
        """What the run's networks see of video `i`. DataError if it cannot be read."""
        return clips.TestClips(self.part, self.run.data, self.run.views()).load((0, i)).views

    def span_s(self, i: int) -> float:
        """The seconds of the clip of video `i`."""
        clip = self.run.data.clip
        return clip.frames * clip.stride / (self.run.data.fps or self.part[i].fps or 25.0)

    def label(self, i: int) -> str:
        """The class of video `i`; "" where it has none, as videos with several actions."""
        label = self.part[i].label
        return self.classes[label] if label >= 0 else ""

    def spread(self, most: int) -> list[int]:
        """At most so many videos, evenly from the first to the last."""
        n = min(most, len(self.part))
        return [k * len(self.part) // n for k in range(n)]

    def said(self) -> str:
        """Which row and seed this is, for the note of a section."""
        return f"{esc(self.row)}, seed {self.cell.seed}." if self.row else f"Seed {self.cell.seed}."


def best_with(m: Material, has: Callable[[Run], bool]) -> Row | None:
    """Of the rows with a finished run that has what a section shows, the best one; None where there is none."""
    others = sorted((row for row in m.rows if row is not m.best), key=lambda row: row.value or 0.0, reverse=True)
    for row in (m.best, *others):
        finished = next((cell for cell in row.cells if cell.results), None)
        if finished is not None and has(finished.run):
            return row
    return None


def shown(m: Material, row: Row | None = None) -> Shown:
    """The first finished seed of a row, by default of the best one. LeftOut where there is none, or the data set is no
    longer the one that was scored."""
    row = row or m.best
    cell = next((cell for cell in row.cells if cell.results), None)
    if cell is None:
        raise LeftOut("no run is finished.")
    protocol = cell.figures("student")["protocol"]
    try:
        data_set = index.read(cell.run.data.root)
        part = data_set.part(protocol["split"], protocol["part"])
    except VidkdError as error:
        raise LeftOut(f"the videos cannot be read: {error}") from None
    if data_set.checksum() != protocol["index_sha256"]:
        raise LeftOut(f"the data set in {cell.run.data.root} is no longer the one that was scored.")
    return Shown(cell, part, data_set.classes, "" if row is m.best else row.name)


def cards(source: Shown, most: int, body: Callable[[int, Views], str]) -> str:
    """A card for each of at most `most` videos, spread over the part: class, name, and what `body` draws of it."""
    boxes = [card(source.label(i), source.part[i].name, body(i, source.views(i))) for i in source.spread(most)]
    return f'<div class="videos">{"".join(boxes)}</div>'


def card(label: str, name: str, body: str, said: str = "") -> str:
    """One video. `said` and `body` are HTML."""
    head = f"<h4>{esc(label)}</h4>" if label else ""
    return f'<div class="video">{head}<p>{said}<span class="tick">{esc(name)}</span></p>{body}</div>'
