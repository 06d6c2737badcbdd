"""A run, described. One YAML file is one `Run`; its sections are frozen, closed and say what they allow.

Reading a file, applying overrides and wording the mistakes is config_file.py.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vidkd import methods, models, tasks
from vidkd.methods._base import MethodSection
from vidkd.models.attention import AttentionSection
from vidkd.models.weights import Adapt
from vidkd.optim import Optim
from vidkd.section import Section, Span
from vidkd.taps import Listen
from vidkd.tasks._base import TaskSection

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0, le=10**6)]  # more of anything is a mistake, and would take all memory


class Degrade(Section):
    """What makes a view worse than its source, applied in this order. Randomness is addressed, as everywhere."""

    time: Literal["as_is", "shuffled", "static"] = "as_is"  # frames in a random order; the middle one, repeated
    blur_sigma_px: float = Field(default=0.0, ge=0)  # Gaussian, at the view's size
    downscale: float = Field(default=1.0, ge=1)  # area down by this factor and bilinear back up
    noise_std: float = Field(default=0.0, ge=0, le=1)  # Gaussian, of the full range
    salt_pepper: float = Field(default=0.0, ge=0, le=1)  # share of pixels, half white and half black
    jpeg_quality: int | None = Field(default=None, ge=1, le=100)  # every frame through JPEG

    @model_serializer(mode="wrap")
    def _without_default_time(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `time` where it is as it is: what was keyed, cached or scored before there was any stays valid."""
        said = handler(self)
        return {key: value for key, value in said.items() if (key, value) != ("time", "as_is")}


class ViewSpec(Section):
    """How one network sees a clip: the same time span, crop window and flip as every other view of it."""

    size_px: Count  # side of the square
    frames: Count | None = None  # evenly spaced over the span; None: data.clip.frames
    degrade: Degrade = Degrade()


class TapAt(Section):
    """A tap of the user's own: what a submodule returns or takes, a map [B, C, T, H, W].

    The input of a block's last ReLU, for one, is the signed map that published feature losses compare.
    """

    path: str  # of the submodule, dotted
    listen: Listen = "output"


class Network(Section):
    """A network of the zoo, its weights and what it sees."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    taps: dict[str, TapAt] = Field(default_factory=dict)  # beside those of the network
    attention: AttentionSection | None = None  # behind its late tap
    view: ViewSpec
    weights: Path | None = None  # a .safetensors, a weights-only .pt, or a run directory
    adapt: Adapt = "none"  # how kernels of another temporal size, or of RGB for a network of flow, are brought over
    reset_head: bool = False  # take the weights of all but the head (class counts may differ); attention may be lacking
    reset_attention: bool = False  # begin with a new attention, whatever the weights have of one

    @field_validator("name")
    @classmethod
    def _exists(cls, name: str) -> str:
        if name not in models.zoo():
            raise ValueError(models.unknown(name))
        return name

    def saved_in(self, weights: Path | None) -> "Network":
        """The same network with the weights that a run of it saved: nothing is adapted or begun anew."""
        return self.model_copy(
            update={"weights": weights, "adapt": "none", "reset_head": False, "reset_attention": False}
        )


class Student(Network):
    """The network that is trained: a student, or, where the run has no `teacher`, a teacher in the making."""


class Cache(Section):
    """The teacher's answers to `views` addressed augmentations of every clip, computed once and replayed.

    The logits and the taps that the run's methods read are stored; `taps` names more, which other runs of a grid read.
    """

    views: Count = 8
    dtype: Literal["fp16", "fp32", "int8"] = "fp16"  # int8: of taps, by channel of each clip; logits are fp16 then
    taps: tuple[str, ...] = ()
    pool: tuple[Count, Count, Count] | None = (
        None  # taps averaged to at most so many places in t, h, w: methods see those (published forms refuse them)
    )
    dir: Path = Path("runs/cache")


class Teacher(Network):
    """A trained network: frozen, in eval mode, without gradient."""

    mixed_precision: Literal["no", "bf16", "fp16"] | None = None  # None: train.mixed_precision
    allow_weak: bool = False  # go on although the preflight found it at or near chance
    preflight_clips: int = Field(default=64, ge=0)  # labelled training clips scored before the first step; 0: none
    cache: Cache | None = None


class ClipSpec(Section):
    """The time span of a clip: `frames` source frames, `stride` apart."""

    frames: Count
    stride: Count = 1


class RandAugment(Section):
    ops: Count = 2
    magnitude: int = Field(default=9, ge=0, le=30)


class Augment(Section):
    """Training augmentation, drawn once a clip and shared by all its views."""

    crop_scale: tuple[float, float] | None = (0.5, 1.0)  # share of the area, as RandomResizedCrop; None: centre crop
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: Probability = 0.5
    color_jitter: float = Field(default=0.0, ge=0, le=1)  # of brightness, contrast, saturation; hue a tenth
    randaugment: RandAugment | None = None
    mixup_alpha: float = Field(default=0.0, ge=0)  # 0: off
    cutmix_alpha: float = Field(default=0.0, ge=0)
    mix_probability: Probability = 1.0  # of a batch, where either is on

    @model_validator(mode="after")
    def _ranges(self) -> "Augment":
        for name in ("crop_scale", "crop_ratio"):
            if (pair := getattr(self, name)) is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name} {list(pair)} must be two positive numbers, the smaller one first")
        if self.crop_scale is not None and self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale {list(self.crop_scale)}: a crop cannot be larger than the picture (1.0)")
        return self


class TestViews(Section):
    """What evaluation sees of a video: `clips` spans spread over all of it, times `crops` windows (1 centre, 3 along
    the longer side, each of the short side; 5 corners and centre, each 7/8 of it)."""

    __test__ = False  # not a test, whatever pytest thinks

    clips: Count = 1
    crops: Literal[1, 3, 5] = 1


class Windows(Section):
    """Spans that slide over a whole video, the last one flush with its end. A training clip is one of those that the
    task wants to learn from, and an epoch all of them; a test video is seen through all."""

    train_step: Count  # frames (at data.fps) from one span to the next
    test_step: Count


class Data(Section):
    root: Path  # a prepared data set (python -m data_prep)
    split: str = "split1"
    train: str = "train"
    val: str | None = None  # a part of the same split, for choosing the best checkpoint
    test: str = "test"
    seed: int = Field(
        default=0, ge=0, lt=2**63
    )  # addresses clips and augmentation; run.seed addresses weights and order
    fps: float | None = Field(default=None, gt=0)  # all videos are read at this rate; None: each at its own
    clip: ClipSpec
    short: Literal["loop", "hold"] = "loop"  # a video shorter than the span repeats, or stands still on its last frame
    augment: Augment = Augment()
    test_views: TestViews = TestViews()
    windows: Windows | None = None  # None: one random span of each training video, test_views.clips of a test video
    decoder: Literal["auto", "decord", "torchcodec", "pyav"] = "auto"
    workers: int = Field(default=2, ge=0, le=1024)
    timeout_s: float = Field(default=120, gt=0, le=1e6)  # a loader worker silent for longer is an error
    on_error: Literal["raise", "skip"] = "raise"  # an undecodable video in training
    max_bad_fraction: Probability = 0.001  # with on_error: skip, more of an epoch than this stops the run

    @model_validator(mode="after")
    def _windows_overlap(self) -> "Data":
        span = self.clip.frames * self.clip.stride
        if self.windows is not None and max(self.windows.train_step, self.windows.test_step) > span:
            raise ValueError(f"windows: a step of more than the {span} frames of a clip leaves frames that none shows")
        return self


class Train(Span):
    """How long (`steps` or `epochs`) and in which portions."""

    batch_size: Count  # clips a step, over all processes and accumulation
    accumulate: Count = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of the averaged student: that is then evaluated
    deterministic: bool = False  # on a GPU: only algorithms that give the same bits again, or an error; slower
    threads: int | None = Field(default=None, gt=0, le=1024)  # CPU threads of torch; None: its own choice
    processes: Count | None = None  # refuse to start on another number of processes
    eval_every: Span | None = None  # on the val part; None: never before the end
    eval_batch_size: Count | None = None  # views at a time; None: batch_size
    on_nonfinite: Literal["raise", "skip"] = "raise"  # skip: a step with a NaN or an infinity in it changes nothing
    max_nonfinite: Count = 10  # with skip, more such steps in a row stop the run
    save_every: Span = Span(epochs=1)
    grace_s: float = Field(default=30, gt=0)  # what the launcher leaves between SIGTERM and SIGKILL: 30 is torchrun's
    log_every_steps: Count = 10


class Log(Section):
    tensorboard: bool = False
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = Field(default="vidkd", pattern=r"^[^/\\#?%:]{1,128}$")  # what wandb takes
    gradients: bool = False  # grad/<term>: how hard each weighted term pulls at the student, in the logged steps
    # (a copy of the student's gradient a term)


class Run(Section):
    """One run: everything that decides its result, and where it goes."""

    name: str
    out: Path | None = None  # None: runs/<name>
    seed: int = Field(default=0, ge=0, lt=2**63)
    task: SerializeAsAny[TaskSection]
    data: Data
    student: Student
    teacher: Teacher | None = None
    methods: tuple[SerializeAsAny[MethodSection], ...] = ()
    optim: Optim
    optim_methods: Optim | None = None  # for the parameters that methods own; None: as optim
    train: Train
    log: Log = Log()

    @field_validator("task", mode="before")
    @classmethod
    def _task_from_its_file(cls, raw: Any) -> Any:
        return _of_kind(tasks, raw)

    @field_validator("methods", mode="before")
    @classmethod
    def _methods_from_their_files(cls, raw: Any) -> Any:
        return tuple(_of_kind(methods, r) for r in raw) if isinstance(raw, list | tuple) else raw

    @model_validator(mode="after")
    def _belongs_together(self) -> "Run":
        if self.teacher is None and (needy := [method.kind for method in self.methods if method.needs_teacher]):
            raise ValueError(f"methods need a teacher ({', '.join(needy)}): add a teacher section, or remove methods")
        if self.teacher is not None and not self.methods:
            raise ValueError("a teacher without methods has nothing to say: add to methods, or remove teacher")
        if (self.data.val is None) != (self.train.eval_every is None):
            raise ValueError("data.val and train.eval_every go together: what to score, and when")
        if self.data.test in (self.data.train, self.data.val) or self.data.val == self.data.train:
            raise ValueError("data.train, data.val and data.test must be different parts")
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.batch_size ({self.train.batch_size}) must be a multiple of "
                f"train.accumulate ({self.train.accumulate})"
            )
        return self

    @property
    def out_dir(self) -> Path:
        return self.out or Path("runs") / self.name

    @property
    def teacher_precision(self) -> Literal["no", "bf16", "fp16"]:
        return (self.teacher and self.teacher.mixed_precision) or self.train.mixed_precision

    def views(self) -> dict[str, ViewSpec]:
        """The views that the loader makes of a training clip."""
        return {"student": self.student.view} | ({"teacher": self.teacher.view} if self.teacher else {})


def _of_kind(folder: Any, raw: Any) -> Any:
    """The section's own class, from the file that `kind` names."""
    if isinstance(raw, dict):
        if "kind" not in raw:
            raise ValueError(f"kind is missing; there are: {', '.join(folder.names())}")
        return folder.load(str(raw["kind"])).Config.model_validate(raw)
    return raw
