"""An anchor-free detector of actions in time on any network of the zoo: where they begin and end, and which they are.

Form and defaults: Lin et al., Learning Salient Boundary Feature for Anchor-free Temporal Action Localization (AFSD),
CVPR 2021, sections 3.2 and 3.3. A pyramid over the backbone's `fine` and `coarse` taps has one location a sample of
each level; each location says how far its action reaches to both sides, then looks at the two boundaries so found and
says it again.

|                              | parameters | GMACs at 256 x 96 px |
|------------------------------|------------|----------------------|
| i3d, without its head        | 12,287,264 | 81.66                |
| i3d_top, without its head    | 10,429,088 | 33.32                |
| pyramid and heads, 20 classes| 32,458,805 |  2.56                |

Class 0 is the background. The answer (logits, [B, K + 1, L]) is that of the refined segments at all L locations, by
level and by time; what else a location says is in taps:

    coarse_logits   [B, K + 1, L]  of the segments before refinement
    reach           [B, 2, L]      from the location to the start and to the end, in frames of the clip, before it
    refinement      [B, 2, L]      what to add to them, in halves of the segment's length
    quality         [B, 1, L]      logit of the tIoU of the refined segment with its action
    frame_boundary  [B, 2, T]      how much of a start and of an end each frame of the clip is, 0..1
    frame_features  [B, C, T]      what that is the strength of: the first half of the channels of starts
    level_features  [B, 4C, T_0]   the same of level_boundary, of one branch after the other
    pyramid_<l>     [B, C, T_l, 1, 1]  level l, the finest is 0: a map like those of the backbone, of one pixel
    signed_<l>      [B, C, T_l, 1, 1]  what level l is made of by its own convolution, before the ReLU (and, at level 0,
                                   before level 1 is added): maps with signs, which losses that compare directions need
    level_boundary  [B, 4, T_0]    the same on the finest level: of the localisation branch, then of the class branch
    background_logits [B, K + 1, L]  in training, where asked (`answer_to_background`): coarse_logits to the maps that
                                   are re-weighted by what the attention overlooks (AAAI 2024)
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidkd.errors import ConfigError, one_of
from vidkd.models import attention, cost
from vidkd.models._boundary import boundary_max_pool
from vidkd.models.attention import Attention
from vidkd.taps import Input, Layout, Tap, Tapped, submodule

NOTHING: Mapping[str, object] = MappingProxyType({})
# [B, C, T]: maps over time alone, which methods that compare maps see as pictures of one pixel
OVER_TIME = Layout(lambda output: output[..., None, None], lambda _, grid: grid.flatten(2))
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


class Detector(nn.Module):
    """A backbone and the heads on two of its taps: [B, 3, T, H, W] in 0..1 -> logits [B, K + 1, L]."""

    def __init__(self, backbone: Tapped, heads: Heads, fine: str, coarse: str) -> None:
        super().__init__()
        self.backbone, self.heads, self.names = backbone, heads, (fine, coarse)
        # where the maps pass on their way to the heads: there they are listened to, and an attention re-weights them
        self.maps = nn.ModuleDict({name: nn.Identity() for name in self.names})
        self.answers_to_background = False

    def forward(self, video: Tensor) -> Tensor:
        seen = self.backbone(video).taps
        if self.training and self.answers_to_background:  # first: what is heard of the pyramid is then the other one's
            self.heads.background(*(own.overlooked(seen[name]) for name, own in self.attentions().items()))
        return self.heads(*(self.maps[name](seen[name]) for name in self.names))

    def attentions(self) -> dict[str, Attention]:
        """Those in the two maps, the finer one first, as far as there are any."""
        found = {name: getattr(self, attention.name(name), None) for name in self.names}
        return {name: own for name, own in found.items() if isinstance(own, Attention)}

    def own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, str | None]:
        """Weights of the backbone alone are taken too: its own head (None) is left out."""
        if any(name.startswith("backbone.") for name in tensors):
            return {name: name for name in tensors}
        own = set(self.backbone.net.state_dict())
        trunk = {name: f"backbone.net.{name}" for name in tensors}
        head = f"{self.backbone.head.split('.')[0]}."
        return {name: None if name.startswith(head) and name not in own else new for name, new in trunk.items()}


def answer_to_background(tapped: Tapped) -> None:
    """Have a detector say `background_logits` while it is trained. ConfigError without attention in both its maps."""
    net = tapped.net
    if not isinstance(net, Detector) or len(net.attentions()) < len(net.names):
        taps = f", taps: [{', '.join(net.names)}]" if isinstance(net, Detector) else ""
        raise ConfigError(
            f"task.background: {tapped.name} needs an attention in both maps of a detector, which says what background "
            f"is; add student.attention: {{head: gap{taps}}}"
        )
    net.answers_to_background = True


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


def _headless(backbone: Tapped) -> Tapped:
    """The backbone without its last layer, which nothing here asks."""
    path = backbone.head.removesuffix(".conv3d")  # I3D's last convolution is part of a unit
    parent, _, name = path.rpartition(".")
    setattr(submodule(backbone.net, "head", parent) if parent else backbone.net, name, nn.Identity())
    return backbone


def detector(
    num_classes: int,
    *,
    backbone: str = "i3d",
    backbone_options: dict = NOTHING,  # pyright: ignore[reportArgumentType]
    frames: int = 256,
    size_px: int = 96,
    fine: str = "middle",
    coarse: str = "late",
    width: int = 512,
    levels: int = 6,
) -> Tapped:
    """`fine` and `coarse` are taps of the backbone, the second one half as long in time; `levels` in all, each again
    half as long. `width` channels, a multiple of 32. It is made for clips of `frames` and `size_px`."""
    from vidkd.models import build  # the zoo holds this file too

    if width < 32 or width % 32 or levels < 2:
        raise ConfigError(f"detector: width is a multiple of 32 and levels at least 2, not {width} and {levels}")
    trunk = _headless(build(backbone, num_classes, **backbone_options))
    for name in {fine, coarse} - trunk.taps.keys():
        raise ConfigError(f"detector: {backbone}: {one_of(name, list(trunk.taps), 'tap')}")
    shapes = cost.tap_shapes(trunk, frames, size_px)
    t_fine, t_coarse = shapes[fine][1], shapes[coarse][1]
    if t_coarse != -(-t_fine // 2) or t_coarse < 2 ** (levels - 2):
        raise ConfigError(
            f"detector: at {frames} frames {backbone}'s tap {fine!r} has {t_fine} samples and {coarse!r} {t_coarse}; "
            f"the second must be half as long, and {levels} levels need {2 ** (levels - 2)} of it"
        )
    heads = Heads(shapes[fine], shapes[coarse], num_classes, frames, width, levels)
    said = {name: size for name, size in outputs(num_classes, width).items() if name != "logits"}
    taps = {name: replace(tap, path=f"backbone.net.{tap.path}") for name, tap in _inner(trunk)}
    taps |= {name: Tap(f"maps.{name}", trunk.taps[name].channels) for name in (fine, coarse)}  # in the layout of all
    taps |= {name: Tap(f"heads.out.{name}", size, axes="BCT") for name, size in said.items()}
    taps["background_logits"] = Tap("heads.background_logits", num_classes + 1, axes="BCT")
    taps |= {f"pyramid_{i}": Tap(f"heads.levels.{i}", width, OVER_TIME) for i in range(levels)}
    own = ["fine", "coarse", *(f"down.{i}" for i in range(levels - 2))]
    taps |= {f"signed_{i}": Tap(f"heads.{layer}.norm", width, OVER_TIME) for i, layer in enumerate(own)}
    channels = len(trunk.input.mean)  # which the backbone standardises by itself
    limits = Input((0.0,) * channels, (1.0,) * channels, frames=frames, size_px=size_px)
    return Tapped("detector", Detector(trunk, heads, fine, coarse), taps, limits, head="heads")


def _inner(trunk: Tapped) -> list[tuple[str, Tap]]:
    """The taps that are still there without the head."""
    return [(name, tap) for name, tap in trunk.taps.items() if not f"{trunk.head}.".startswith(f"{tap.path}.")]


NETWORKS = {"detector": detector}
