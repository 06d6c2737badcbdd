"""Generative attention distillation (AAAI 2024): attention, and a conditional VAE that draws features from it.

Both networks carry an attention lam behind a tap F (`attention:` of a network; `tap`, by default the late one), and
beside each learns a CVAE of F given lam. Where they carry several, as detectors do, the method is listed once for each.
Without a teacher this trains one such pair: a teacher in the making, or the student's own row without distillation.
With a teacher the student's attention follows the teacher's, and its CVAE the teacher's CVAE, which the teacher's run
kept and which stays as it is. Features and attention that meet a CVAE as constants train the CVAE alone; a CVAE that is
held trains the network alone.

| term           | weight            | trains  |                                                                   |
|----------------|-------------------|---------|-------------------------------------------------------------------|
| reconstruction | 1                 | CVAE    | F against its drawing from the posterior                          |
| kl             | 0.1               | CVAE    | the posterior against N(lam, 1)                                   |
| prior          | 0 to 0.5, 20 ep.  | network | F against its drawing from lam alone                              |
| attention      | 0.1               | network | lam against the teacher's lam                                     |
| generative     | see `GENERATIVE`  |         | what the two CVAEs draw                                           |
| channels       | 1                 | neither | where channel counts differ: a linear map of F to the teacher's   |
"""

import copy
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from vidkd.errors import ConfigError, Mistakes
from vidkd.methods._base import BaseMethod, MethodSection, Pair
from vidkd.methods._cvae import CVAE, Spatial, gaussian_kl
from vidkd.models import attention
from vidkd.section import Ramp, Span
from vidkd.taps import Borrowed, Tapped, held
from vidkd.types import ClipBatch, View

GENERATIVE = {  # weight of the term by its form; published versions used all but the last
    "release": 0.01,  # student's F, lam drawn by both CVAEs; trains the CVAE, and through `prior` alone the network
    "teacher_features": 0.1,  # student's lam drawn by its CVAE, teacher's lam by the teacher's; trains the network
    "mixed": 1.0,  # student's F drawn by its CVAE given lam, by the teacher's given the teacher's head on F; network
    "posterior_kl": 0.1,  # ours: the teacher's code of its F, lam against its code of the student's; network
    "none": 0.0,
}


class Config(MethodSection):
    needs_teacher: ClassVar[bool] = False

    tap: str = attention.LATE  # of both networks: whose attention, and of which maps the CVAE is
    spatial: Spatial = "pool"
    generative: Literal["release", "teacher_features", "mixed", "posterior_kl", "none"] = "release"
    noise: Literal["shared", "independent"] = "shared"  # independent (published) puts a floor under `generative`
    target: Literal["detached", "attached"] = "detached"  # F in `prior`; attached (published): F also moves to lam's
    turn: Span | None = None  # the CVAE for so long, then the network, and so on; None: both at every step

    @field_validator("weights")
    @classmethod
    def _ramp(cls, weights: dict[str, float | Ramp]) -> dict[str, float | Ramp]:
        return {"prior": Ramp(to=0.5, epochs=20)} | weights

    def default_weight(self, term: str) -> float:
        return {"kl": 0.1, "attention": 0.1, "generative": GENERATIVE[self.generative]}.get(term, 1.0)


class Method(BaseMethod[Config]):
    stochastic = True

    def __init__(self, config: Config, student: Tapped, teacher: Tapped | None, num_classes: int) -> None:
        super().__init__(config, student, teacher, num_classes)
        self.lam_tap = attention.name(config.tap)
        networks = {"student": student} | ({} if teacher is None else {"teacher": teacher})
        own, *others = _attentions(networks, config.tap)
        theirs = others[0] if others else None
        self.distils = theirs is not None
        self.shapes = own.shape, (theirs or own).shape
        channels, _, h, w = self.shapes[1]  # the student's features are brought to the teacher's grid
        self.size = (h, w)
        self.cvae = CVAE(channels, config.spatial, self.size)
        self.match = Match(own.shape[0], channels) if own.shape[0] != channels else None
        self.guide = self.head = None
        if theirs is not None and config.generative != "none":
            self.guide = Borrowed(CVAE(channels, config.spatial, self.size))
        if theirs is not None and config.generative == "mixed":
            self.head = Borrowed(copy.deepcopy(theirs.head))

    def teacher_taps(self) -> list[str]:
        if not self.distils:
            return []
        both = self.match is not None or self.config.generative == "posterior_kl"
        return [self.lam_tap, self.config.tap] if both else [self.lam_tap]

    def terms(self) -> list[str]:
        own = ["reconstruction", "kl", "prior"]
        if not self.distils:
            return own
        channels, generative = ["channels"] * (self.match is not None), ["generative"] * (self.guide is not None)
        return [*own, "attention", *channels, *generative]

    def compares(self) -> list[Pair]:
        heard = f"{self.config.tap}, {self.lam_tap}"
        if not self.distils:
            return [Pair(heard, "", "a CVAE of its own")]
        (_, *grid), (_, *wanted) = self.shapes
        steps = ["a linear map of channels, sigmoid"] * (self.match is not None)
        steps += [f"the student's {grid[0]} samples of time interpolated to {wanted[0]}"] * (grid[0] != wanted[0])
        pairs = [Pair(self.lam_tap, self.lam_tap, ", ".join(steps) or "nothing: the same channels and length")]
        if self.guide is not None:
            brought = f", the student's maps brought from {_times(grid)} to {_times(wanted)}" * (grid != wanted)
            pairs.append(Pair(heard, "its CVAE", f"a CVAE: {self.config.generative}{brought}"))
        return pairs

    def learns(self, name: str, step: int) -> bool:
        if self.config.turn is None:
            return True
        turn_of_cvae = step // self.config.turn.count() % 2 == 0
        return (name.startswith("methods.") and ".cvae." in name) == turn_of_cvae

    def keeps(self) -> dict[str, Tensor]:
        return {} if self.distils else self.cvae.state_dict()

    def take_kept(self, tensors: dict[str, Tensor]) -> None:
        if self.guide is None:
            return
        if not tensors:
            raise ConfigError(
                "the teacher's run kept no CVAE; train the teacher with this method "
                "(configs/*_generative_teacher.yaml), or set generative: none"
            )
        try:
            self.guide.module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"the teacher's CVAE of {self.config.tap!r} is another than spatial says, or its run names the taps in "
                f"another order: {reason}"
            ) from None

    def forward(self, batch: ClipBatch, student: View, teacher: View | None) -> dict[str, Tensor]:
        maps, lam = self._on_the_teachers_grid(student, teacher)
        content, noise = self.cvae.content(maps), draw(lam)
        still, still_lam = content.detach(), lam.detach()
        drawn, mean, log_var = self.cvae.posterior(still, still_lam, noise.posterior)
        with held(self.cvae):
            imagined = self.cvae.prior(lam, noise.prior)
        terms = {
            "reconstruction": F.mse_loss(drawn, still),
            "kl": gaussian_kl(mean, log_var, still_lam.transpose(1, 2)),
            "prior": F.mse_loss(imagined, still if self.config.target == "detached" else content),
        }
        if teacher is None:
            return terms
        terms["attention"] = F.mse_loss(lam, self._lam(teacher))
        if self.match is not None:
            mapped = fit(self.match.maps(self._maps(student).detach()), self._lam(teacher).shape[2], self.size)
            terms["channels"] = F.mse_loss(self.cvae.content(mapped), self._content_of(teacher))
        if self.guide is not None:
            terms["generative"] = self._generative(maps, lam, drawn, imagined, teacher, noise)
        return terms

    def _generative(
        self, maps: Tensor, lam: Tensor, drawn: Tensor, imagined: Tensor, teacher: View, noise: "Noise"
    ) -> Tensor:
        """The generative term; the student's CVAE drew `drawn` from constants and `imagined` from lam."""
        assert self.guide is not None
        guide, content, form = self.guide.module, self.cvae.content(maps), self.config.generative
        if form == "posterior_kl":
            with torch.no_grad():
                code = guide.encode(self._content_of(teacher), self._lam(teacher))
            return gaussian_kl(*code, *guide.encode(content, lam))
        if form == "mixed":
            with held(self.cvae):
                drawn = self.cvae.posterior(content, lam, noise.posterior)[0]
        target = self._drawn_by_the_guide(
            guide, maps, lam, teacher, noise if self.config.noise == "shared" else draw(lam)
        )
        return F.mse_loss(imagined if form == "teacher_features" else drawn, target)

    @torch.no_grad()
    def _drawn_by_the_guide(self, guide: CVAE, maps: Tensor, lam: Tensor, teacher: View, noise: "Noise") -> Tensor:
        if self.config.generative == "teacher_features":
            return guide.prior(self._lam(teacher), noise.prior)
        if self.head is not None:
            lam = self.head.module(maps).float()
        return guide.posterior(self.cvae.content(maps), lam, noise.posterior)[0]

    def _on_the_teachers_grid(self, student: View, teacher: View | None) -> tuple[Tensor, Tensor]:
        """The student's F [B, C, T, h, w] and lam [B, C, T], brought to the teacher's channels, length and size."""
        maps, lam = self._maps(student), self._lam(student)
        if teacher is None:
            return maps, lam
        if self.match is not None:
            with held(self.match.maps):  # else the loss falls by mapping all features to nothing
                maps = self.match.maps(maps)
            lam = self.match.lam(lam).sigmoid()
        frames = self._lam(teacher).shape[2]
        return fit(maps, frames, self.size), fit(lam, frames)

    def _content_of(self, teacher: View) -> Tensor:
        return self.cvae.content(self._maps(teacher))

    def _maps(self, view: View) -> Tensor:
        return view.taps[self.config.tap].float()

    def _lam(self, view: View) -> Tensor:
        return view.taps[self.lam_tap].float()


class Match(nn.Module):
    """From the student's channels to the teacher's."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.maps = nn.Conv3d(student, teacher, 1)
        self.lam = nn.Conv1d(student, teacher, 1)


class Noise(NamedTuple):
    """What makes a latent of its mean and spread [B, T, C]."""

    posterior: Tensor
    prior: Tensor


def draw(lam: Tensor) -> Noise:
    """Standard normal noise for the latents of lam [B, C, T]."""
    like = lam.transpose(1, 2)
    return Noise(torch.randn_like(like), torch.randn_like(like))


def fit(x: Tensor, frames: int, size: tuple[int, ...] = ()) -> Tensor:
    """[B, C, T, h, w] or [B, C, T], interpolated to `frames` and `size` (h, w); itself where it has them already."""
    if tuple(x.shape[2:]) == (frames, *size):
        return x
    return F.interpolate(x, size=(frames, *size), mode="trilinear" if size else "linear", align_corners=False)


def _times(grid: list[int]) -> str:
    return "x".join(map(str, grid))


def _attentions(networks: dict[str, Tapped], tap: str) -> list[attention.Attention]:
    """That of each network, by the name of its section; ConfigError for all that carry none."""
    found, mistakes = [], Mistakes()
    for who, tapped in networks.items():
        with mistakes.noted():
            found.append(_attention(who, tapped, tap))
    mistakes.raise_any()
    return found


def _attention(who: str, tapped: Tapped, tap: str) -> attention.Attention:
    found = attention.of(tapped, tap)
    if found is None:
        carried = attention.every(tapped)
        plain = tap == attention.LATE and not carried
        taps = "" if plain else f", taps: [{', '.join([*carried, tap])}]"
        where = "" if plain else f" in its tap {tap!r}"
        raise ConfigError(f"{tapped.name} carries no attention{where}; add {who}.attention: {{head: gap{taps}}}")
    return found
