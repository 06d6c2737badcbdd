"""Recognition: one class a video.

The views of a video (its clips x crops) are averaged into one answer, and that answer is what most figures are of;
`clip` holds the same figures with every view counted by itself.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vidkd import metrics, predictions_file
from vidkd.errors import ConfigError, DataError
from vidkd.taps import Tapped
from vidkd.tasks._aggregation import Aggregation, aggregate, joint_steps, mean_probability, step_probabilities
from vidkd.tasks._base import Answers, BaseTask, Scored, TaskSection, same_videos
from vidkd.types import ClipBatch, View

PREFIX: dict[Aggregation, str] = {"mean_probability": "log_probability/", "mean_logit": "logit/"}
TEXT = ("video", "label", "prediction", "top5", "view_rank", "view_confidence")  # the columns that hold no numbers


class Config(TaskSection):
    only_teaches: ClassVar[tuple[str, ...]] = ("weights", "label_smoothing", "loss", "bootstrap")

    label_smoothing: float = Field(default=0.0, ge=0, le=1)  # share of the target spread evenly over all classes
    loss: Literal["mean_logit", "step_probabilities"] = "mean_logit"  # the latter: see step_probabilities below
    aggregation: Aggregation = "mean_probability"  # what is averaged over the views of a video
    fusion: Literal["step_probabilities"] | None = None  # of several networks; None: the mean of their probabilities
    bootstrap: int = Field(default=0, ge=0)  # resamples of a second, bootstrapped interval of top-1; 0: none


class Task(BaseTask[Config]):
    primary, title, text = "top1", "top-1", TEXT
    not_fused = ""

    def terms(self) -> list[str]:
        return ["label"]

    def asks(self, student: Tapped) -> None:
        if "level_boundary" in student.taps:
            raise ConfigError(
                f"the task recognition needs one answer a clip; {student.name} detects: task.kind=detection"
            )
        for key, other in (("loss", "mean_logit"), ("fusion", "null")):
            if getattr(self.config, key) == "step_probabilities" and "step_logits" not in student.taps:
                raise ConfigError(
                    f"task.{key}: step_probabilities needs a network with the tap step_logits, such as i3d; "
                    f"{student.name} has none: task.{key}={other}"
                )

    def losses(self, batch: ClipBatch, student: View) -> dict[str, Tensor]:
        target = batch.label if batch.target is None else batch.target.float()
        logits = student.logits.float()
        if self.config.loss == "step_probabilities":
            logits = step_probabilities(student.taps["step_logits"].float())
        return {"label": F.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)}

    def right(self, batch: ClipBatch, view: View) -> Tensor:
        return view.logits.argmax(dim=1) == batch.label

    def keep(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        del extra
        return {"logits": view.logits.detach().float().cpu()}

    def undecided(self, view: View, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.config.fusion is None:
            return self.keep(view, extra)
        if "step_logits" not in view.taps:
            raise ConfigError("task.fusion: step_probabilities needs networks with the tap step_logits, such as i3d")
        return {"step_logits": view.taps["step_logits"].detach().float().cpu()}

    def fused(self, streams: Sequence[Scored]) -> Scored:
        """Of every view of a video: the log of the mean of the networks' probabilities; with fusion step_probabilities
        that of the mean over the steps of the softmax of their summed step logits, whose best class is that of the
        official code of generative attention distillation (AAAI 2024), which sums over the steps.

        DataError if the networks saw other videos, as many views of one, or as many steps of a view."""
        first = same_videos(streams)
        name, join = ("logits", mean_probability) if self.config.fusion is None else ("step_logits", joint_steps)
        for i, video in enumerate(first.ids):
            shapes = [list(stream.kept[name][i].shape) for stream in streams]
            if any(shape != shapes[0] for shape in shapes):
                raise DataError(
                    f"{video}: the streams gave {name} of {' and '.join(map(str, shapes))} (views, classes, steps); "
                    "data.test_views, data.clip and the classes must agree"
                )
        each = zip(*(stream.kept[name] for stream in streams), strict=True)
        return Scored(first.ids, first.label, {"logits": [join(list(views)) for views in each]})

    def results(self, scored: Scored) -> dict[str, Any]:
        logits = _checked(scored, len(self.classes))
        scores = aggregate(logits, self.config.aggregation)
        rank, confidence = _of_views(logits, scored.label)
        return figures(
            self.classes, self.config.aggregation, scored.label, scores, rank, confidence, self.config.bootstrap
        )

    def headline(self, figures: dict[str, Any]) -> str:
        low, high = figures["top1_interval"]
        return f"top-1 {figures['top1']:.1%} (95 % {low:.1%} to {high:.1%})"

    def predictions(self, scored: Scored) -> dict[str, list[Any]]:
        """Flat columns of text and numbers, from which `rescore` gets every figure again.

        `view_rank` and `view_confidence` are lists with spaces between: for every view, how many classes came before
        the label, and the probability of the best one. The last K columns are the averaged scores, one a class.
        """
        logits = _checked(scored, len(self.classes))
        scores = aggregate(logits, self.config.aggregation)
        rank, confidence = _of_views(logits, scored.label)
        top = [[self.classes[i] for i in row] for row in metrics.order(scores)[:, :5].tolist()]
        columns: dict[str, list[Any]] = {
            "video": list(scored.ids),
            "label": [self.classes[i] for i in scored.label.tolist()],
            "prediction": [names[0] for names in top],
            "confidence": metrics.confidence(scores).tolist(),
            "top5": [" | ".join(names) for names in top],
            "view_rank": [" ".join(map(str, row)) for row in rank.tolist()],
            "view_confidence": [" ".join(f"{c:.9g}" for c in row) for row in confidence.tolist()],
        }
        prefix = PREFIX[self.config.aggregation]
        return columns | {f"{prefix}{name}": scores[:, i].tolist() for i, name in enumerate(self.classes)}

    def answers(self, columns: dict[str, list[Any]], videos: list[str]) -> Answers:
        """The share of videos whose prediction is their label; `columns` themselves name the videos."""
        del videos
        right = np.array([a == b for a, b in zip(columns["label"], columns["prediction"], strict=True)], np.float64)
        return Answers(columns["video"], lambda drawn: float(right[drawn].mean()))

    def agreement(self, before: Scored, after: Scored) -> dict[str, Any]:
        """How the answers of one network (the teacher) relate to those of another (the student): metrics.agreement."""
        if before.ids != after.ids:
            raise ValueError("agreement is between answers to the same videos in the same order")
        first, second = (aggregate(_checked(s, len(self.classes)), self.config.aggregation) for s in (before, after))
        return metrics.agreement(first, second, before.label)


def figures(
    classes: tuple[str, ...],
    aggregation: Aggregation,
    label: Tensor,
    scores: Tensor,
    view_rank: Tensor,
    view_confidence: Tensor,
    bootstrap: int = 0,
) -> dict[str, Any]:
    """Every figure from label [N], averaged scores [N, K] and what is kept of each view [N, V]."""
    k, (n, views) = len(classes), view_rank.shape
    rank, prediction = metrics.rank(scores, label), metrics.order(scores)[:, 0]
    confusion = metrics.confusion_matrix(prediction, label, k)
    found = metrics.summary(label, rank, metrics.confidence(scores), k)
    if bootstrap:
        found["top1_bootstrap"] = list(metrics.bootstrap_interval(rank == 0, bootstrap))
    clip = metrics.summary(label.repeat_interleave(views), view_rank.flatten(), view_confidence.flatten(), k)
    del clip["top1_interval"]  # the views of one video are not independent
    return found | {
        "n_videos": n,
        "n_views": n * views,
        "views_per_video": views,
        "aggregation": aggregation,
        "clip": clip,
        "per_class": metrics.per_class(confusion, classes),
        "confusion": confusion.tolist(),
    }


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stream",
        type=Path,
        action="append",
        default=[],
        metavar="PREDICTIONS",
        help="another network's (of optical flow, say) for the same videos: the mean of all their probabilities counts",
    )


def score_file(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`rescore` of the predictions file `path`, with options.bootstrap resamples; of several, fused (options.stream).

    Late fusion: each file's class probabilities of a video are averaged, every file counting the same.
    """
    if len({path, *options.stream}) < 1 + len(options.stream):
        raise ConfigError(f"--stream: {path} and the streams must be different files")
    streams = {file: predictions_file.read(file, TEXT) for file in (path, *options.stream)}
    for file, columns in streams.items():
        try:
            figures = rescore(columns, options.bootstrap)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        if len(streams) == 1:
            return figures
    return rescore(fused(streams), options.bootstrap)


def fused(streams: dict[Path, dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """One table of predictions, of one view a video, from those of several networks of the same videos and classes.

    The score is the log of the mean of their probabilities (softmax of logits). DataError if videos, labels or classes
    differ; the files' videos may be in any order.
    """
    (first, own), *others = streams.items()
    _, classes = _header(own)
    label = dict(zip(own["video"], own["label"], strict=True))
    total = torch.zeros(len(label), len(classes), dtype=torch.float64)
    for file, columns in streams.items():
        aggregation, named = _header(columns)
        if named != classes or dict(zip(columns["video"], columns["label"], strict=True)) != label:
            raise DataError(f"{file} and {first} cannot be fused: they are of other videos, labels or classes")
        place = {video: i for i, video in enumerate(columns["video"])}
        scores = torch.tensor([columns[f"{PREFIX[aggregation]}{name}"] for name in classes], dtype=torch.float64).T
        total += scores[[place[video] for video in own["video"]]].softmax(dim=1) / (1 + len(others))
    task = Task(Config(kind="recognition"), classes)
    position = {name: i for i, name in enumerate(classes)}
    logits = total.clamp_min(torch.finfo(torch.float32).tiny).log().float()[:, None]
    truth = torch.tensor([position[name] for name in own["label"]])
    return task.predictions(Scored(own["video"], truth, {"logits": list(logits)}))


def class_line(row: dict[str, Any]) -> str:
    share = "  none" if row["accuracy"] is None else f"{row['accuracy']:6.1%}"
    return f"{share}  {row['correct']:5} of {row['n']:5}  {row['class']}"


def rescore(columns: dict[str, list[Any]], bootstrap: int = 0) -> dict[str, Any]:
    """What `results` said, from the columns that `predictions` wrote. DataError if they are not such columns."""
    aggregation, classes = _header(columns)
    video, prefix = columns["video"], PREFIX[aggregation]
    if len(set(video)) != len(video) or not video:
        raise DataError("the column video must name at least one video, and none of them twice")
    position = {name: i for i, name in enumerate(classes)}
    if foreign := [name for name in columns["label"] if name not in position]:
        raise DataError(f"the label {foreign[0]!r} is none of the {len(classes)} classes that have scores")
    label = torch.tensor([position[name] for name in columns["label"]])
    try:
        scores = torch.tensor([columns[f"{prefix}{name}"] for name in classes], dtype=torch.float32).T
        rank = torch.tensor([[int(r) for r in row.split()] for row in columns["view_rank"]])
        confidence = torch.tensor([[float(c) for c in row.split()] for row in columns["view_confidence"]])
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"a score, a view_rank or a view_confidence is not a number, or one is missing ({error})"
        ) from None
    if not torch.isfinite(scores).all() or rank.ndim != 2 or rank.shape != confidence.shape or not rank.numel():
        raise DataError("some score is not finite, or the views of a video do not have a rank and a confidence each")
    for name, said, best in zip(video, columns["prediction"], metrics.order(scores)[:, 0].tolist(), strict=True):
        if said != classes[best]:
            raise DataError(
                f"{name}: the prediction says {said!r} and the scores {classes[best]!r}; the file was changed"
            )
    return figures(classes, aggregation, label, scores, rank, confidence, bootstrap)


def _header(columns: dict[str, list[Any]]) -> tuple[Aggregation, tuple[str, ...]]:
    if missing := [name for name in TEXT if name not in columns]:
        raise DataError(f"lacks the column(s) {', '.join(missing)}: not the predictions of a recognition run")
    for aggregation, prefix in PREFIX.items():
        if classes := tuple(c.removeprefix(prefix) for c in columns if c.startswith(prefix)):
            return aggregation, classes
    raise DataError(f"lacks the scores: a column a class, named {' or '.join(p + 'CLASS' for p in PREFIX.values())}")


def _of_views(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """[N, V, K], [N] -> the label's rank and the best class's probability, of every view by itself [N, V]."""
    flat, views = logits.flatten(0, 1), logits.shape[1]
    rank = metrics.rank(flat, label.repeat_interleave(views))
    return rank.view(-1, views), metrics.confidence(flat).view(-1, views)


def _checked(scored: Scored, num_classes: int) -> Tensor:
    """The logits [N, V, K]; DataError names a video whose logits are not finite."""
    kept = scored.kept["logits"]
    if len({len(views) for views in kept}) > 1:
        raise DataError("recognition averages as many views of every video: set data.windows=null")
    logits = torch.stack(list(kept))
    if logits.ndim != 3 or logits.shape[0] != len(scored.ids) or logits.shape[2] != num_classes:
        raise ValueError(f"logits must be [{len(scored.ids)}, V, {num_classes}], got {tuple(logits.shape)}")
    bad = ~torch.isfinite(logits).flatten(1).all(dim=1)
    if bad.any():
        first = scored.ids[int(bad.int().argmax())]
        raise DataError(f"the network's logits are not finite for {int(bad.sum())} video(s), the first is {first!r}")
    return logits
