"""The part of a detector that detects: a pyramid over two maps of a backbone, and what its locations say (detector.py
has the table of it). Lin et al. (AFSD), CVPR 2021, sections 3.2 and 3.3."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidkd.models._boundary import boundary_max_pool

MIN_WINDOW = 1.0  # samples to either side of a boundary that are looked at, at least
OUTSIDE, INSIDE = 10, 4  # of a segment's length, to either side of its boundaries: a tenth and a quarter


class Conv(nn.Module):
    """A convolution over time, padded as TensorFlow does (an odd zero goes behind), group norm and ReLU; or, with
    `plain`, the convolution alone."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, plain: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride)
        self.norm = None if plain else nn.GroupNorm(c_out // 16, c_out)
        _initialise(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        pad = max(kernel - (x.shape[-1] % stride or stride), 0)
        x = self.conv(F.pad(x, (pad // 2, pad - pad // 2)))
        return x if self.norm is None else F.relu(self.norm(x))


class Lateral(nn.Module):
    """A tap [B, C, T, H, W] -> [B, width, T]: one convolution over the whole of its picture."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels, _, height, breadth = shape
        self.conv = nn.Conv3d(channels, width, (1, height, breadth))
        self.norm = nn.GroupNorm(width // 16, width)
        _initialise(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x).flatten(2)))


class Branch(nn.Module):
    """What a location knows when it has looked at its boundaries: its own feature, the pooled boundaries of its level
    and those of the frames, joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = Conv(width, width, 1)
        self.level = Conv(width, 2 * width, 1)
        self.frame = Conv(width, width, 1)
        self.joined = Conv(4 * width, width, 1)

    def forward(self, x: Tensor, frame: Tensor, at_level: Tensor, at_frame: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, T_l], frame [B, C, T] -> [B, C, T_l]; and [B, 2C, T_l], what is pooled: starts, then ends."""
        sides = self.level(x)
        pooled = self.frame(boundary_max_pool(frame, at_frame)), boundary_max_pool(sides, at_level)
        return self.joined(torch.cat([*pooled, self.own(x)], dim=1)), sides


class Heads(nn.Module):
    """Pyramid, coarse and refined predictions, on the backbone's two taps."""

    def __init__(
        self, fine: tuple[int, ...], coarse: tuple[int, ...], num_classes: int, frames: int, width: int, levels: int
    ) -> None:
        super().__init__()
        self.frames = frames
        self.fine, self.coarse = Lateral(fine, width), Lateral(coarse, width)
        self.down = nn.ModuleList(Conv(width, width, 3, stride=2) for _ in range(levels - 2))
        self.frame = nn.Sequential(Conv(width, width, 3), Conv(width, width, 3), Conv(width, width, 1))
        self.towers = nn.ModuleList(nn.Sequential(Conv(width, width, 3), Conv(width, width, 3)) for _ in range(2))
        self.reach, self.coarse_class = Conv(width, 2, 3, plain=True), Conv(width, num_classes + 1, 3, plain=True)
        self.scales = nn.Parameter(torch.ones(levels))
        self.branches = nn.ModuleList(Branch(width) for _ in range(2))
        self.refinement = Conv(width, 2, 1, plain=True)
        self.quality = Conv(width, 1, 3, plain=True)
        self.refined_class = Conv(width, num_classes + 1, 1, plain=True)
        # places to listen at
        self.levels = nn.ModuleList(nn.Identity() for _ in range(levels))
        self.out = nn.ModuleDict({name: nn.Identity() for name in outputs(num_classes, width)})
        self.background_logits = nn.Identity()

    @property
    def weight(self) -> Tensor:
        """[K, width, 1]: what says how many classes there are, the background not among them."""
        return self.refined_class.conv.weight[1:]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        levels = self.pyramid(fine, coarse)
        frame = self.frame(F.interpolate(levels[0], size=self.frames))
        found: dict[str, list[Tensor]] = {}
        for i, level in enumerate(levels):
            for name, value in self.locations(level, frame, self.scales[i], boundary=i == 0).items():
                found.setdefault(name, []).append(value)
        found |= {"frame_boundary": [_strength(frame)], "frame_features": [frame]}
        made = {name: listened(torch.cat(found[name], dim=2)) for name, listened in self.out.items()}
        return made["logits"]

    def background(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The coarse class logits alone, [B, K + 1, L], of maps in which there is to be no action."""
        own = [self.coarse_class(self.towers[1](level)) for level in self.pyramid(fine, coarse)]
        return self.background_logits(torch.cat(own, dim=2))

    def pyramid(self, fine: Tensor, coarse: Tensor) -> list[Tensor]:
        """Levels [B, width, T_l], the finest first."""
        second = self.coarse(coarse)
        first = self.fine(fine)
        levels = [first + F.interpolate(second, size=first.shape[2]), second]
        for down in self.down:
            levels.append(down(levels[-1]))
        return [listened(level) for listened, level in zip(self.levels, levels, strict=True)]

    def locations(self, level: Tensor, frame: Tensor, scale: Tensor, boundary: bool) -> dict[str, Tensor]:
        """All that the locations of one level say."""
        features = [tower(level) for tower in self.towers]
        reach = (scale * self.reach(features[0]).float()).exp()
        t = level.shape[2]
        centre = torch.arange(t, device=level.device, dtype=torch.float32)
        at_level = windows(centre, reach.detach() * t / self.frames)
        at_frame = windows((centre + 0.5) * self.frames / t, reach.detach(), inclusive=True)
        pairs = zip(self.branches, features, strict=True)
        looked, sides = zip(*(branch(x, frame, at_level, at_frame) for branch, x in pairs), strict=True)
        said = {
            "logits": self.refined_class(looked[1]),
            "coarse_logits": self.coarse_class(features[1]),
            "reach": reach,
            "refinement": self.refinement(looked[0]),
            "quality": self.quality(looked[0]),
        }
        if boundary:
            said["level_boundary"] = torch.cat([_strength(own) for own in sides], dim=1)
            said["level_features"] = torch.cat(sides, dim=1)
        return said


def outputs(num_classes: int, width: int) -> dict[str, int]:
    """What the heads say, and of how many numbers at each place."""
    sizes = {"logits": num_classes + 1, "coarse_logits": num_classes + 1, "reach": 2, "refinement": 2, "quality": 1}
    return sizes | {"frame_boundary": 2, "level_boundary": 4, "frame_features": width, "level_features": 4 * width}


def windows(centre: Tensor, reach: Tensor, inclusive: bool = False) -> Tensor:
    """Where to look for the boundaries of centre - reach[0] to centre + reach[1]: centre [L], reach [B, 2, L] ->
    [B, L, 4], first and last sample around the start, then around the end. `inclusive`: both ends count as length."""
    start, end = centre - reach[:, 0], centre + reach[:, 1]
    length = end - start + (1 if inclusive else 0)
    out, into = (length / part for part in (OUTSIDE, INSIDE))
    out, into = out.clamp(min=MIN_WINDOW), into.clamp(min=MIN_WINDOW)
    return torch.stack([start - out, start + into, end - into, end + out], dim=2).round()


def _strength(features: Tensor) -> Tensor:
    """Non-negative [B, C, T] -> [B, 2, T] in 0..1: the mean tanh of the start's half of the channels, of the end's."""
    return features.float().tanh().unflatten(1, (2, -1)).mean(dim=2)


def _initialise(conv: nn.Conv1d | nn.Conv3d) -> None:
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
