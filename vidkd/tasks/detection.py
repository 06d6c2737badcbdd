"""Temporal action detection: which actions happen in an untrimmed video, and from when to when.

The truth is segments.csv in the prepared data set (annotations.py), in seconds. The network is a detector
(models/detector.py), which sees windows that slide over a video; what it says of all of them is put together.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from vidkd import annotations
from vidkd.errors import ConfigError, DataError
from vidkd.models import detector
from vidkd.taps import Tapped
from vidkd.tasks import _boundary_contrast, _detection_losses, _detections
from vidkd.tasks._base import Answers, BaseTask, Scored, TaskSection, same_videos
from vidkd.tasks._detection_figures import TIOU, Truth, figures, matched, thresholds
from vidkd.tasks._detection_file import ASKS_FOR, add_score_arguments, class_line, score_file
from vidkd.tasks._detection_losses import ClassOver
from vidkd.tasks._detections import fused, keep, said_of
from vidkd.types import ALTERED, ClipBatch, Segments, Shown, View

# what the commands find in the module of a task
__all__ = [
    "ASKS_FOR", "Config", "Task", "add_score_arguments", "class_line", "events", "fused", "keep", "said_of",
    "score_file",
]  # fmt: skip

SEGMENTS = "segments.csv"
UNSURE = "ambiguous.csv"  # beside it, where there are any: neither an action nor surely background
COLUMNS = ("video", "start_s", "end_s", "label", "score")
SAME_S = 0.01  # windows of two streams that begin and end so close together are one
TOUCH_S = 1e-6  # an action that ends with a window lies inside it, whatever rounding says


class Config(TaskSection):
    only_teaches: ClassVar[tuple[str, ...]] = (
        "weights", "inside", "refined_from", "class_over", "pooled_boundaries", "background", "contrast", "bootstrap",
    )  # fmt: skip

    tiou: tuple[str, ...] = TIOU  # lists START:STEP:STOP; mAP over the first heads the results
    inside: float = Field(
        default=0.5, gt=0, le=1
    )  # the share of an action in a window from which the window teaches it
    refined_from: float = Field(default=0.5, ge=0, le=1)  # tIoU of a coarse segment from which refining it is learned
    class_over: ClassOver = "refined"  # what the loss of refined classes is divided by, as AFSD; actions: as the coarse
    pooled_boundaries: bool = True  # boundary labels come to the finest level by maximum; false: every n-th, as AFSD
    background: bool = False  # a student with attention: what that overlooks is to be background (AAAI 2024)
    contrast: bool = False  # a second pass of every clip, an action in it cut in two by background (AFSD)
    sigma: float = Field(default=0.5, gt=0)  # of Gaussian soft-NMS
    threshold: float = Field(default=0.01, ge=0, lt=1)  # scores up to it are no detections
    most: int = Field(default=1000, gt=0)  # detections of a video
    bootstrap: int = Field(default=1000, ge=0)  # resamples of videos for the interval of mAP; 0: none

    @field_validator("tiou")
    @classmethod
    def _lists(cls, tiou: tuple[str, ...]) -> tuple[str, ...]:
        if not tiou:
            raise ValueError("names no list of thresholds")
        for said in tiou:
            thresholds(said)
        return tiou

    def default_weight(self, term: str) -> float:
        return {"location": 10.0, "refined_location": 10.0, "background": 35.0, "triplet": 0.1}.get(term, 1.0)


class Task(BaseTask[Config]):
    primary, title, text, not_fused = "map", "mAP", ("video", "label"), ""

    def __init__(self, config: Config, classes: tuple[str, ...], root: Path | None = None) -> None:
        super().__init__(config, classes)
        assert root is not None, "detection needs the prepared data set that its segments lie in"
        self.path = root / SEGMENTS
        if not self.path.is_file():
            raise DataError(
                f"{root}: no {SEGMENTS}, which the task detection learns from; python -m data_prep segments"
            )
        self.said = annotations.read(self.path)
        number = {name: k for k, name in enumerate(classes)}
        if foreign := sorted(set(self.said.actions.label) - set(classes)):
            raise DataError(f"{self.path}: {foreign[0]!r} is not in classes.txt")
        own: dict[str, list[tuple[int, float, float]]] = {}
        a = self.said.actions
        for video, start, end, label in zip(a.video, a.start_s, a.end_s, a.label, strict=True):
            own.setdefault(video, []).append((number[label], start, end))
        self.own = {video: sorted(rows) for video, rows in own.items()}  # of two labels of one segment, the first one
        self.places = max(map(len, self.own.values()), default=1)
        self.unsure: dict[str, list[tuple[float, float]]] = {}
        u = annotations.read(root / UNSURE).ambiguous if (root / UNSURE).is_file() else self.said.ambiguous
        for video, start, end in zip(u.video, u.start_s, u.end_s, strict=True):
            self.unsure.setdefault(video, []).append((start, end))
        self._last: tuple[Scored, Segments] | None = None

    def check(self, names: list[str], labels: list[int]) -> None:
        del labels  # the label of a whole video is of no use here
        if not any(name in self.own for name in names):
            raise DataError(f"{self.path}: it names none of the videos, such as {names[0]!r}")

    def truth(self, shown: Shown) -> dict[str, Tensor]:
        """The actions of a window: `segments` [M, 2] as shares of it, `classes` [M] (-1: none), `span_s` [2]."""
        length = shown.end_s - shown.start_s
        segments, classes = torch.zeros(self.places, 2), torch.full((self.places,), -1)
        for i, (label, start, end) in enumerate(self._in(shown, self.config.inside)):
            cut = (max(start, shown.start_s), min(end, shown.end_s))
            segments[i] = torch.tensor([(t - shown.start_s) / length for t in cut])
            classes[i] = label
        span_s = torch.tensor([shown.start_s, shown.end_s], dtype=torch.float64)
        truth = {"segments": segments, "classes": classes, "span_s": span_s}
        return truth | ({"cut": self._cut(shown)} if self.config.contrast else {})

    def wants(self, shown: Shown) -> bool:
        """Windows that hold some action whole."""
        return bool(self._in(shown, 1.0))

    def protocol(self) -> dict[str, Any]:
        return {"annotations_checksum": self.said.checksum}

    def terms(self) -> list[str]:
        more = {"background": self.config.background, "triplet": self.config.contrast}
        return [*_detection_losses.TERMS, *(name for name, wanted in more.items() if wanted)]

    def asks(self, student: Tapped) -> None:
        _detections.check(student.taps)
        if self.config.background:
            detector.answer_to_background(student)

    def altered(self, batch: ClipBatch) -> ClipBatch:
        """With `contrast`, and the clips in which an action was cut beside those as they are. ConfigError for a student
        that is not shown all frames of a clip."""
        if not self.config.contrast or not batch.extra["cut"][:, 4].any():
            return batch
        video = batch.seen_by("student")
        if (frames := int(batch.extra["cut"][0, 5])) != video.shape[2]:
            raise ConfigError(
                f"task.contrast: the student sees {video.shape[2]} of the {frames} frames of a clip, and needs all: "
                "leave out student.view.frames"
            )
        place = _boundary_contrast.order(batch.extra["cut"], video.shape[2])[:, None, :, None, None]
        return replace(batch, views={**batch.views, ALTERED: video.gather(2, place.expand_as(video))})

    def losses(self, batch: ClipBatch, student: View) -> dict[str, Tensor]:
        segments, classes = batch.extra["segments"], batch.extra["classes"]
        config, said = self.config, _detections.heads(student)
        terms = _detection_losses.losses(
            said, segments, classes, config.refined_from, config.pooled_boundaries, config.class_over
        )
        if config.background:
            terms["background"] = _detection_losses.background_loss(said["background_logits"])
        if config.contrast:
            again = said if student.altered is None else student.altered.taps  # then no clip was cut
            features = again["frame_features"], again["level_features"]
            terms["triplet"] = _boundary_contrast.triplet_loss(*features, batch.extra["cut"])
        return terms

    def right(self, batch: ClipBatch, view: View) -> Tensor:
        """Clips with an action: whether most of its locations name its class before the other classes."""
        said = _detections.heads(view)
        sizes = _detection_losses.level_sizes(said["level_boundary"].shape[2], view.logits.shape[2])
        centre = _detection_losses.centres(sizes, view.logits.device)
        own = _detection_losses.assign(batch.extra["segments"], batch.extra["classes"], centre)
        right = (view.logits[:, 1:].argmax(dim=1) + 1 == own.label) & own.positive
        n = own.positive.sum(dim=1)
        return (2 * right.sum(dim=1) > n)[n > 0]

    def keep(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        return keep(view, extra["span_s"])

    def undecided(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        said = said_of(view)
        return {"logits": said.logits, **said.taps, "span_s": extra["span_s"]}

    def fused(self, streams: Sequence[Scored]) -> Scored:
        """The mean of each raw answer to each window, decoded (`_detections.fused`). DataError if the networks saw
        other videos, or other windows of one."""
        first = same_videos(streams)
        kept: list[dict[str, Tensor]] = []
        for i, video in enumerate(first.ids):
            said = [{name: column[i] for name, column in stream.kept.items()} for stream in streams]
            span_s = [own.pop("span_s") for own in said]
            if any(own.shape != span_s[0].shape or (own - span_s[0]).abs().max() > SAME_S for own in span_s):
                raise DataError(
                    f"{video}: the streams saw other windows of it; data.fps, data.clip and data.windows must agree, "
                    "and both data sets hold the same seconds of it"
                )
            kept.append(keep(fused([View(own.pop("logits"), own) for own in said]), span_s[0]))
        return Scored(first.ids, first.label, {name: [own[name] for own in kept] for name in kept[0]})

    def results(self, scored: Scored) -> dict[str, Any]:
        return figures(self._truth(scored.ids), self._found(scored), self.config.tiou, self.config.bootstrap)

    def headline(self, figures: dict[str, Any]) -> str:
        low, high = figures.get("map_interval", (float("nan"),) * 2)
        return f"mAP@{figures['tiou']} {figures['map']:.1%} (95 % {low:.1%} to {high:.1%})"

    def predictions(self, scored: Scored) -> dict[str, list[Any]]:
        """One row a detection, by video and falling score."""
        found = self._found(scored)
        return {name: getattr(found, name).tolist() for name in COLUMNS}

    def answers(self, columns: dict[str, list[Any]], videos: list[str]) -> Answers:
        found = Segments.of(zip(*(columns[name] for name in COLUMNS), strict=True), scored=True)
        return Answers(videos, matched(self._truth(videos), found, self.config.tiou[0]).mean)

    def agreement(self, before: Scored, after: Scored) -> dict[str, Any]:
        """Of the best detections of `before`, as many a video as it has actions, the share that some detection of
        `after` repeats: the same class, at tIoU 0.5."""
        first = self._found(before)
        ids, counts = np.unique(self._truth(before.ids).actions.video, return_counts=True)
        most = dict(zip(ids, counts.tolist(), strict=True))
        seen: dict[str, int] = {}
        best = np.zeros(len(first), bool)
        for i, video in enumerate(first.video):
            seen[video] = seen.get(video, 0) + 1
            best[i] = seen[video] <= most.get(video, 0)
        said = Truth(first.where(best), before.ids, self.classes)
        hits = sum(int(hit.sum()) for hit in matched(said, self._found(after), "0.5").hit)
        return {"n": int(best.sum()), "repeated": hits, "agreement": hits / max(int(best.sum()), 1)}

    def _cut(self, shown: Shown) -> Tensor:
        """[6] int64: how an action of the window is cut (_boundary_contrast.cut), and how many frames the window has.
        The same whenever the same is shown."""
        rng = torch.Generator().manual_seed(zlib.crc32(repr((shown.video, shown.frames, shown.window)).encode()))
        frames, length_s = len(shown.frames), shown.end_s - shown.start_s

        def at(rows: list[tuple[int, float, float]]) -> list[tuple[float, float]]:
            rate = frames / length_s
            return [((start - shown.start_s) * rate, (end - shown.start_s) * rate) for _, start, end in rows]

        other = [(-1, start, end) for start, end in self.unsure.get(shown.video, ())]
        after = (-1, min(shown.duration_s, shown.end_s), shown.end_s)  # the file is over: its last frame stands there
        every = at([*self._in(shown, 0.0), *other, after])
        shortest_s = min((end - start for _, start, end in self.own.get(shown.video, ())), default=0.0)
        whole = at(self._in(shown, self.config.inside))
        found = _boundary_contrast.cut(whole, every, shortest_s / length_s * frames, frames, rng)
        return torch.tensor([*found, frames])

    def _in(self, shown: Shown, share: float) -> list[tuple[int, float, float]]:
        """(class, start_s, end_s) of the actions of which at least `share` lies in the window."""
        found = []
        for label, start, end in self.own.get(shown.video, ()):
            if not start < min(end, shown.duration_s):  # nothing of it is in the file
                continue
            inside = min(end, shown.end_s) - max(start, shown.start_s)
            if inside + TOUCH_S >= share * (end - start):
                found.append((label, start, end))
        return found

    def _truth(self, videos: list[str]) -> Truth:
        return Truth(self.said.actions, videos, self.classes)

    def _found(self, scored: Scored) -> Segments:
        """The detections in every video, by video and falling score."""
        if self._last is None or self._last[0] is not scored:
            rows: list[tuple[str, float, float, str, float]] = []
            for name, places, scores in zip(scored.ids, scored.kept["segments"], scored.kept["scores"], strict=True):
                if not torch.isfinite(scores).all() or not torch.isfinite(places).all():
                    raise DataError(f"the network's answers to {name!r} are not finite")
                kept = {"segments": places, "scores": scores}
                rows += [(name, *event) for event in events(kept, self.config, self.classes)]
            self._last = scored, Segments.of(rows, scored=True)
        return self._last[1]


def events(kept: dict[str, Tensor], config: Config, classes: tuple[str, ...]) -> list[tuple[float, float, str, float]]:
    """(start_s, end_s, class, score) of what was kept of all windows of one video, by falling score."""
    found = _detections.of_video(kept["segments"], kept["scores"], config.sigma, config.threshold, config.most)
    segments, label, score = (column.tolist() for column in found)
    return [(start, end, classes[k], s) for (start, end), k, s in zip(segments, label, score, strict=True)]
