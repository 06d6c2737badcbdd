"""Feature-decoder distillation (FDD): the student's shallow map, decoded, must look like what the teacher saw.

Huang et al., "Feature Map Distillation of Thin Nets for Low-Resolution Object Recognition", IEEE TIP 31, 2022. A small
decoder, trained with the student and thrown away afterwards, brings the student's shallow map to the size of the
target: the teacher's high-resolution input (released code) or the teacher's own shallow map (the paper's wording).

`faithful: true` is the released decoder and loss. That loss hardly moves the student: its gradient was measured at
1e-6 of the label loss's (docs/results.md has our figures), because the default-initialised chain of ReLUs puts out next
to nothing and a Gram difference is quartic in it. The default form has He initialisation, a linear last layer and
per-clip Gram plus L1 distances, which do move it. The spatiotemporal form is ours.
"""

import math
from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vidkd.methods._base import BaseMethod, MethodSection, Pair
from vidkd.methods._maps import Form, SingleForm, at_frames, forms, sizes
from vidkd.models.cost import map_shape
from vidkd.taps import Tapped
from vidkd.types import ClipBatch, View

Distance = Literal["gram_batch", "gram", "l1"]
Upsample = Literal["subpixel", "interp"]
Grid = tuple[int, int, int]  # t, h, w
Shape = tuple[int, int, int, int]  # c, t, h, w
PUBLISHED_WIDTH = 6
VARIANCE_EPS = 1e-5  # that of batch normalisation
LAST_LAYER_SCALE = 0.1  # of He's: at full scale the Gram gradient starts at 100 to 100,000 times the label loss's


class Config(MethodSection):
    student_tap: str = "early"
    target: Literal["clip", "teacher_shallow"] = "clip"
    teacher_tap: str = "early"  # of target teacher_shallow
    form: Form = "per_frame"
    faithful: bool = False
    distances: tuple[Distance, ...] | None = None  # summed; None: gram_batch if faithful, else gram and l1
    upsample: Upsample = "subpixel"
    # Channels after the last doubling, made by a convolution of one position at the entry. None: the student's own are
    # shared out where that leaves three or more, else 6 as published.
    width: Annotated[int, Field(ge=3)] | None = None
    doublings: Annotated[int, Field(ge=0)] | None = None  # of the side, at most; None: up to the target's. Not faithful

    @model_validator(mode="after")
    def _belongs_together(self) -> "Config":
        if self.faithful and self.doublings is not None:
            raise ValueError("doublings: the faithful decoder goes up to the target's size; set it to null")
        if self.faithful and self.width is not None:
            raise ValueError("width: the faithful decoder has the student's channels, or 6; set it to null")
        if self.distances is not None and (not self.distances or len(set(self.distances)) < len(self.distances)):
            raise ValueError(f"distances {list(self.distances)}: name at least one, and each once")
        return self

    def chosen(self) -> tuple[Distance, ...]:
        return self.distances or (("gram_batch",) if self.faithful else ("gram", "l1"))

    def default_weight(self, term: str) -> float:
        del term
        return 0.1

    def wants_whole_maps(self) -> bool:
        return self.faithful and self.target == "teacher_shallow"


class Method(BaseMethod[Config]):
    def __init__(self, config: Config, student: Tapped, teacher: Tapped, num_classes: int) -> None:
        super().__init__(config, student, teacher, num_classes)
        self.needs_input = config.target == "clip"
        shape, wanted = map_shape(student, config.student_tap), _target_shape(config, teacher)
        self.shapes = shape, wanted
        self.decoders = nn.ModuleDict({form: _decoder(config, form, shape, wanted) for form in forms(config.form)})

    def teacher_taps(self) -> list[str]:
        return [] if self.needs_input else [self.config.teacher_tap]

    def terms(self) -> list[str]:
        return list(self.config.chosen())

    def compares(self) -> list[Pair]:
        target = "input" if self.needs_input else self.config.teacher_tap
        drawn = (f"{form}, drawing {sizes(self._drawn(decoder))}" for form, decoder in self.decoders.items())
        by = f"a decoder ({self.config.upsample}) {' and one '.join(drawn)}"
        (_, frames, *side), made = self.shapes[1], [self._drawn(decoder) for decoder in self.decoders.values()]
        by += "; of the target the frames of the same times" * any(shape[1] != frames for shape in made)
        by += "; the target pooled to it" * any([*shape[2:]] != side for shape in made)
        own, wanted = map(sizes, self.shapes)
        return [Pair(f"{self.config.student_tap} {own}", f"{target} {wanted}", by)]

    def _drawn(self, decoder: nn.Module) -> Shape:
        """[c, t, h, w] of what a decoder draws of the student's map."""
        assert isinstance(decoder, Decoder)
        (_, *grid), (out, *target) = self.shapes
        if not self.config.faithful:
            target = [n * math.prod(step[axis] for step in decoder.steps) for axis, n in enumerate(grid)]
        elif decoder.k_t == 1:
            target[0] = grid[0]
        t, h, w = target
        return out, t, h, w

    def forward(self, batch: ClipBatch, student: View, teacher: View) -> dict[str, Tensor]:
        target = teacher.video if self.needs_input else teacher.taps[self.config.teacher_tap]
        assert target is not None
        target = target.detach().float()
        if not self.needs_input:
            target = standardised(target)
        found: dict[str, list[Tensor]] = {distance: [] for distance in self.config.chosen()}
        for form, decoder in self.decoders.items():
            wanted = (
                at_frames(target, student.taps[self.config.student_tap].shape[2]) if form == "per_frame" else target
            )
            decoded = decoder(student.taps[self.config.student_tap], _grid(wanted))
            with torch.autocast(decoded.device.type, enabled=False):
                decoded, wanted = decoded.float(), _resized(wanted, _grid(decoded))
                for distance, losses in found.items():
                    losses.append(DISTANCES[distance](decoded, wanted, form == "per_frame"))
        return {distance: torch.stack(losses).mean() for distance, losses in found.items()}


class Decoder(nn.Module):
    """A shallow map [B, C, T, h, w] -> [B, out, T', H, W]: doublings, each a convolution and a sub-pixel shuffle (or an
    interpolation) with a residual convolution, then a tail of three convolutions.

    `steps` says by how much each doubling stretches (t, h, w); `k_t` is the temporal size of every kernel: 1 treats
    each frame by itself. `faithful` ends in a resize to the target and in a ReLU, and keeps torch's initialisation.
    """

    def __init__(
        self,
        channels: int,
        width: int | None,
        out: int,
        steps: list[Grid],
        k_t: int,
        upsample: Upsample,
        faithful: bool,
    ) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int) -> nn.Conv3d:
            return nn.Conv3d(c_in, c_out, (k_t, 3, 3), padding=(k_t // 2, 1, 1))

        self.steps, self.k_t, self.upsample, self.faithful = steps, k_t, upsample, faithful
        stretch = math.prod(math.prod(step) for step in steps)
        self.entry = nn.Identity()
        if width is not None or channels % stretch or channels // stretch < 3:
            within = (width or PUBLISHED_WIDTH) * stretch
            self.entry = nn.Conv3d(channels, within, 1)
            channels = within
        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        for step in steps:
            less = channels // math.prod(step)
            self.before.append(conv(channels, channels if upsample == "subpixel" else less))
            self.after.append(conv(less, less))
            channels = less
        self.tail, self.residual, self.last = conv(channels, channels), conv(channels, channels), conv(channels, out)
        if not faithful:
            self._initialise()
        # With 3 or 6 channels at the full side, CPU convolutions in the usual layout take seven times as long.
        self.to(memory_format=torch.channels_last_3d)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.last.weight *= LAST_LAYER_SCALE

    def forward(self, maps: Tensor, target: Grid) -> Tensor:
        x = self.entry(maps).contiguous(memory_format=torch.channels_last_3d)
        for step, before, after in zip(self.steps, self.before, self.after, strict=True):
            x = F.relu(before(x))
            x = F.relu(subpixel(x, step) if self.upsample == "subpixel" else _interpolated(x, step))
            x = x + F.relu(after(x))
        x = F.relu(self.tail(x))
        if self.faithful:
            x = F.interpolate(x, target)  # nearest
        x = self.last(x + F.relu(self.residual(x)))
        return F.relu(x) if self.faithful else x


def _target_shape(config: Config, teacher: Tapped) -> Shape:
    if config.target == "teacher_shallow":
        return map_shape(teacher, config.teacher_tap)
    assert teacher.clip is not None
    frames, side = teacher.clip
    return len(teacher.input.mean), frames, side, side


def _decoder(config: Config, form: SingleForm, shape: Shape, target: Shape) -> Decoder:
    (channels, t, h, w), (out, frames, height, width) = shape, target
    doublings = _doublings(min(height / h, width / w))
    if config.doublings is not None:
        doublings = min(doublings, config.doublings)
    in_time = _doublings(frames / t) if form == "spatiotemporal" else 0
    steps: list[Grid] = []
    for i in range(max(doublings, in_time)):
        r = 2 if i < doublings else 1
        steps.append((2 if i < in_time else 1, r, r))
    k_t = 1 if form == "per_frame" else 3
    return Decoder(channels, config.width, out, steps, k_t, config.upsample, config.faithful)


def _doublings(ratio: float) -> int:
    return max(math.floor(math.log2(ratio)), 0)


def standardised(maps: Tensor) -> Tensor:
    """[B, C, T, H, W] -> the same with each channel at mean 0 and variance 1 over the batch; all 0 if constant."""
    axes = (0, 2, 3, 4)
    spread = (maps.var(axes, correction=0, keepdim=True) + VARIANCE_EPS).sqrt()
    return (maps - maps.mean(axes, keepdim=True)) / spread


def subpixel(x: Tensor, step: Grid) -> Tensor:
    """[B, c * r_t * r_h * r_w, T, H, W] -> [B, c, T * r_t, H * r_h, W * r_w]; with r_t = 1, PixelShuffle by frame."""
    r_t, r_h, r_w = step
    return rearrange(x, "b (c p q r) t h w -> b c (t p) (h q) (w r)", p=r_t, q=r_h, r=r_w)


def _interpolated(x: Tensor, step: Grid) -> Tensor:
    return F.interpolate(x, scale_factor=tuple(map(float, step)), mode="trilinear", align_corners=False)


def _grid(maps: Tensor) -> Grid:
    t, h, w = maps.shape[2:]
    return t, h, w


def _resized(target: Tensor, grid: Grid) -> Tensor:
    """[B, C, T, H, W] -> the decoder's grid: means over areas in space, the nearest frame in time."""
    t, h, w = grid
    return F.adaptive_avg_pool3d(at_frames(target, t), (t, h, w))


def gram_batch_distance(decoded: Tensor, target: Tensor, per_frame: bool) -> Tensor:
    """Mean squared difference of Gram matrices over all channels of all clips (and frames) of the batch, as released.

    [B, c, T, H, W] -> rows [B * c, T * H * W], or [B * T * c, H * W] per frame; so the value depends on who else is in
    the batch. Mean over all entries.
    """
    rows = "b c t h w -> 1 (b t c) (h w)" if per_frame else "b c t h w -> 1 (b c) (t h w)"
    return F.mse_loss(gram(rearrange(decoded, rows)), gram(rearrange(target, rows)))


def gram_distance(decoded: Tensor, target: Tensor, per_frame: bool) -> Tensor:
    """Smooth L1 between the Gram matrices [c, c] of each clip (or frame). Mean over all entries."""
    rows = "b c t h w -> (b t) c (h w)" if per_frame else "b c t h w -> b c (t h w)"
    return F.smooth_l1_loss(gram(rearrange(decoded, rows)), gram(rearrange(target, rows)))


def l1_distance(decoded: Tensor, target: Tensor, per_frame: bool) -> Tensor:
    """Mean absolute difference; the same whether by frame or not."""
    del per_frame
    return F.l1_loss(decoded, target)


def gram(rows: Tensor) -> Tensor:
    """[N, c, P] -> [N, c, c]: inner products of the rows, divided by their length P."""
    return rows @ rows.mT / rows.shape[2]


DISTANCES = {"gram_batch": gram_batch_distance, "gram": gram_distance, "l1": l1_distance}
