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

from torch import Tensor, nn

from vidkd.errors import ConfigError, one_of
from vidkd.models import attention, cost
from vidkd.models._heads import Heads, outputs
from vidkd.models.attention import Attention
from vidkd.taps import Input, Layout, Tap, Tapped, submodule

NOTHING: Mapping[str, object] = MappingProxyType({})
# [B, C, T]: maps over time alone, which methods that compare maps see as pictures of one pixel
OVER_TIME = Layout(lambda output: output[..., None, None], lambda _, grid: grid.flatten(2))


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
