"""Feature-map consistency (FMC): the student's deep maps get the size and the direction of the teacher's.

Huang et al., "Feature Map Distillation of Thin Nets for Low-Resolution Object Recognition", IEEE TIP 31, 2022. The
image form is the authors' released loss (`faithful`, `form: per_frame`); over space and time, and with sizes that do
not grow with the map, it is ours. Maps of any size and length can be compared; where the channels differ the student's
are projected, in training only.

The released form is the default here, since it moves the student; that of feature_decoder is not, since it does not.
The release compares signed maps, from before a block's last ReLU. Most networks offer theirs as the tap `late_signed`;
others are had with `student.taps: {signed: {path: ..., listen: input}}`. Behind that ReLU many small maps are all zero:
such a map has no direction, its error is 1 and it gets no gradient (`vidkd.plan` counts them).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vidkd.methods._base import BaseMethod, Direction, MethodSection, Pair
from vidkd.methods._maps import Form, SingleForm, at_frames, forms, projection, sizes
from vidkd.models.cost import map_shape
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, View

BERHU_SHARE = 0.6  # of the largest difference: where the reverse Huber turns from a line into a parabola
COSINE_EPS = 1e-6


class Config(MethodSection):
    student_tap: str = "late"
    teacher_tap: str = "late"
    form: Form = "per_frame"
    faithful: bool = True  # False: whole maps instead of columns, sizes as root mean squares
    normalize_size: bool = False  # of the faithful form: columns divided by the root of their length

    def default_weight(self, term: str) -> float:
        del term
        return 0.9

    def wants_whole_maps(self) -> bool:
        return self.faithful


class Method(BaseMethod[Config]):
    def __init__(self, config: Config, student: Tapped, teacher: Tapped, num_classes: int) -> None:
        super().__init__(config, student, teacher, num_classes)
        self.shapes = map_shape(student, config.student_tap), map_shape(teacher, config.teacher_tap)
        self.project = projection(self.shapes[0][0], self.shapes[1][0])

    def teacher_taps(self) -> list[str]:
        return [self.config.teacher_tap]

    def terms(self) -> list[str]:
        return ["consistency"]

    def compares(self) -> list[Pair]:
        (c_s, t_s, *side_s), (c_t, t_t, *side_t) = self.shapes
        each = forms(self.config.form)
        steps = [] if c_s == c_t else [f"the student's {c_s} channels projected to {c_t}"]
        if t_s != t_t and "per_frame" in each:
            steps.append(
                f"each of the student's {t_s} frames with that of the teacher's {t_t} at its place in the span"
            )
        if side_s != side_t or (t_s != t_t and "spatiotemporal" in each):
            steps.append(
                "the teacher resized (nearest)" if self.config.faithful else "the larger pooled to the smaller"
            )
        student, teacher = (
            f"{tap} {sizes(shape)}"
            for tap, shape in zip((self.config.student_tap, self.config.teacher_tap), self.shapes, strict=True)
        )
        return [Pair(student, teacher, ", ".join(steps) or "nothing: the same size")]

    def directions(self) -> list[Direction]:
        form = forms(self.config.form)[0]  # of both the frames: they are the smaller maps
        return [
            Direction("student", self.config.student_tap, "student_tap", form),
            Direction("teacher", self.config.teacher_tap, "teacher_tap", form),
        ]

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        config = self.config
        s, t = self.project(student.taps[config.student_tap]), teacher.taps[config.teacher_tap]
        with torch.autocast(s.device.type, enabled=False):
            losses = [
                consistency_loss(s.float(), t.float(), form, config.faithful, config.normalize_size)
                for form in forms(config.form)
            ]
        return {"consistency": torch.stack(losses).mean()}


def consistency_loss(
    student: Tensor, teacher: Tensor, form: SingleForm, faithful: bool = True, normalize_size: bool = False
) -> Tensor:
    """The mean reverse Huber of size plus direction differences, over clips and channels (and frames, per frame).

    student [B, C, T, h, w] and teacher [B, C, T', h', w'] in float32. per_frame compares each of the student's frames
    with the teacher's at the same share of the span; spatiotemporal compares the maps over time too. `faithful` as
    released: vectors along h (spatiotemporal: t and h), averaged over w. Otherwise one vector a map.
    """
    if form == "per_frame":
        teacher = at_frames(teacher, student.shape[2])
        student, teacher = (x.transpose(1, 2).flatten(0, 1)[:, :, None] for x in (student, teacher))
    if faithful:
        size = (_column_size(student, normalize_size) - _column_size(teacher, normalize_size)).abs()
        resized = F.interpolate(teacher, student.shape[2:])  # nearest
        direction = (1 - F.cosine_similarity(student.flatten(2, 3), resized.flatten(2, 3), 2, COSINE_EPS)).mean(2)
    else:
        size = (_rms(student) - _rms(teacher)).abs()
        t, h, w = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        s, r = (F.adaptive_avg_pool3d(x, (t, h, w)).flatten(2) for x in (student, teacher))
        direction = 1 - F.cosine_similarity(s, r, 2, COSINE_EPS)
    return reverse_huber(size + direction).mean()


def reverse_huber(error: Tensor) -> Tensor:
    """error >= 0 of any shape -> e below C, (e^2 + C^2) / 2C from there; C is 0.6 of the largest, without gradient."""
    c = (BERHU_SHARE * error.detach().max()).clamp_min(torch.finfo(error.dtype).tiny)
    return torch.where(error < c, error, (error**2 + c**2) / (2 * c))


def _column_size(maps: Tensor, normalize: bool) -> Tensor:
    """[B, C, T, H, W] -> [B, C]: the Euclidean norm over t and h, averaged over w."""
    columns = maps.flatten(2, 3)
    norms = torch.linalg.vector_norm(columns, dim=2).mean(2)
    return norms / math.sqrt(columns.shape[2]) if normalize else norms


def _rms(maps: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, C]: the root mean square; its gradient at an all-zero map is zero."""
    flat = maps.flatten(2)
    return torch.linalg.vector_norm(flat, dim=2) / math.sqrt(flat.shape[2])
