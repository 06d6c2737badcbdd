"""From what a detector says of windows to detections in a video: what several say together, scores, windows put
together, soft-NMS."""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidkd.errors import ConfigError
from vidkd.tasks._detection_losses import centres, level_sizes, refined_segments
from vidkd.types import View

Floats = NDArray[np.float64]
NEEDED = ("logits", "coarse_logits", "reach", "refinement", "quality", "frame_boundary", "level_boundary")
FLOOR = 0.001  # a score that soft-NMS has pushed below this is no detection any more


def check(taps: Container[str]) -> None:
    """ConfigError if these are no taps of a detector."""
    if "level_boundary" not in taps:
        raise ConfigError("the task detection needs a network that detects: name: detector, options: {backbone: ...}")


def heads(view: View) -> dict[str, Tensor]:
    """What the heads of a detector said, its logits among it. ConfigError if the network is none."""
    check(view.taps)
    return {"logits": view.logits, **view.taps}


def keep(view: View, span_s: Tensor) -> dict[str, Tensor]:
    """What a detector says of windows from span_s[:, 0] to span_s[:, 1] seconds: `segments` [B, L, 2] in seconds and
    `scores` [B, L, K]."""
    segments, scores = decode(heads(view))
    return {"segments": in_seconds(segments.cpu(), span_s), "scores": scores.cpu()}


def said_of(view: View) -> View:
    """Of what a detector answers, what detections are made of, on the CPU."""
    said = {name: tap.cpu() for name, tap in heads(view).items() if name in NEEDED}
    return View(said.pop("logits"), said)


def fused(views: Sequence[View]) -> View:
    """What several detectors (an RGB and a flow stream) say together of the same windows: the mean of each raw answer,
    before anything is decoded, as AFSD's code does. ConfigError if they have other locations or classes."""
    every = [heads(view) for view in views]
    mean = {}
    for name, first in every[0].items():
        answers = [said[name] for said in every]
        if any(answer.shape != first.shape for answer in answers):
            shapes = " and ".join(str(list(answer.shape[1:])) for answer in answers)
            raise ConfigError(f"detectors to be fused need the same frames, levels and classes; {name}: {shapes}")
        mean[name] = torch.stack([answer.float() for answer in answers]).mean(dim=0)
    return View(mean.pop("logits"), mean)


def decode(said: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Segments [B, L, 2] as shares of the clip, inside it, and scores [B, L, K].

    A score is the mean of both class probabilities times the predicted quality (AFSD, section 3.5).
    """
    frames, finest = said["frame_boundary"].shape[2], said["level_boundary"].shape[2]
    centre = centres(level_sizes(finest, said["logits"].shape[2]), said["logits"].device)
    segments = refined_segments(said["reach"], said["refinement"], centre, frames).clamp(0, 1)
    refined, coarse = (said[name].float().softmax(dim=1) for name in ("logits", "coarse_logits"))
    probability = (refined + coarse) / 2
    scores = probability[:, 1:] * said["quality"].float().sigmoid()
    return segments, scores.transpose(1, 2)


def soft_nms(segments: Floats, scores: Floats, sigma: float, most: int) -> tuple[Floats, Floats]:
    """The detections of one class by falling score: segments [N, 2], scores [N].

    The best is taken, the others are multiplied by exp(-tIoU^2 / sigma) with it, and so on until none is left above
    0.001 or `most` are taken (Bodla et al., ICCV 2017, Gaussian form).
    """
    segments, scores = segments.copy(), scores.copy()
    taken, worth = [], []
    while len(scores) and len(taken) < most:
        best = int(scores.argmax())
        if scores[best] < FLOOR:
            break
        own = segments[best].copy()
        taken.append(own)
        worth.append(scores[best])
        both = np.clip(np.minimum(own[1], segments[:, 1]) - np.maximum(own[0], segments[:, 0]), 0, None)
        union = (own[1] - own[0]) + (segments[:, 1] - segments[:, 0]) - both
        overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
        scores *= np.exp(-(overlap**2) / sigma)
        kept = scores >= FLOOR
        kept[best] = False
        segments, scores = segments[kept], scores[kept]
    return np.array(taken).reshape(-1, 2), np.array(worth)


def of_video(
    segments: Tensor, scores: Tensor, sigma: float, threshold: float, most: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """All windows of one video, segments [V, L, 2] in seconds and scores [V, L, K], -> its `most` best detections by
    falling score: segments [D, 2], classes [D], scores [D]."""
    places = segments.double().flatten(0, 1).numpy()
    table = scores.double().flatten(0, 1).numpy()
    found: list[tuple[Floats, NDArray[np.int64], Floats]] = []
    for k in range(table.shape[1]):
        rows = (table[:, k] > threshold) & (places[:, 1] > places[:, 0])
        own, worth = soft_nms(places[rows], table[rows, k], sigma, most)
        found.append((own, np.full(len(worth), k), worth))
    every, label, worth = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(-worth, kind="stable")[:most]
    return every[order], label[order], worth[order]


def in_seconds(segments: Tensor, span_s: Tensor) -> Tensor:
    """Shares of a clip [B, L, 2] -> seconds of its video; span_s [B, 2], where the clip begins and ends."""
    begin, end = span_s[:, 0, None, None], span_s[:, 1, None, None]
    return begin + segments.to(torch.float64) * (end - begin)
