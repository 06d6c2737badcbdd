"""Rendered clips in which only motion over time tells the class; the data set of the demo and of the tests.

Textured shapes lie over a drifting textured background. A shape's state is a point on a torus: its place (x and y wrap
around the frame), its angle and the phase of its size (which fades out at both ends and wraps). The start is uniform on
the torus, and a class adds a constant velocity to one coordinate, the same for all shapes of a clip. Adding a constant
maps the uniform distribution on a torus to itself: single frames are distributed exactly alike in all classes.
"""

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.pipeline import ffmpeg, prepare, produce, writer
from data_prep.pipeline.listing import Item, Listing, table_of
from vidkd.errors import ConfigError, one_of

# class: (coordinate of the state, direction). Image axes: y grows downwards, a growing angle turns clockwise.
CLASSES = {
    "move_left": (0, -1),
    "move_right": (0, 1),
    "move_up": (1, -1),
    "move_down": (1, 1),
    "rotate_clockwise": (2, 1),
    "rotate_counterclockwise": (2, -1),
    "loom_in": (3, 1),
    "loom_out": (3, -1),
}
PARTS: tuple[str, ...] = ("train", "val", "test")
TURN = 1 << 16  # a coordinate is a 16-bit integer, once around the torus
SLOWEST = (0.010, 0.010, 0.011, 0.012)  # of a turn a frame: of the frame's width, height, of 360 degrees, of the sizes
FASTEST = (0.022, 0.022, 0.028, 0.028)
RADIUS = (0.14, 0.30)  # of the frame: a shape at the two ends of its size phase
FADE = 0.12  # of the size phase: where a shape appears and disappears
FPS = 25
UNTRIMMED = 300  # frames of an untrimmed video: 12 s, some four actions
TIMEOUT_S = 60.0
RECIPE = 2  # one more whenever the same settings would make other pictures


@dataclass(frozen=True)
class Settings:
    """What a whole data set has in common."""

    size: int = 96  # px
    frames: int = 32
    seed: int = 0
    difficulty: float = 0.5  # 0: the background is flat and still; 1: it is as strong as the shapes
    crf: int = 18


@dataclass(frozen=True)
class Shape:
    outline: np.ndarray  # [1024] radius over angle, at most 1
    texture: np.ndarray  # [128, 128, 3]


@dataclass(frozen=True)
class Scene:
    """All that is random about a clip, drawn without knowing its class."""

    shapes: tuple[Shape, ...]
    start: np.ndarray  # [shapes, 4] uint16
    speed: float  # 0 slowest .. 1 fastest
    background: np.ndarray  # [size, size, 3]
    drift: np.ndarray  # [2] px a frame, (x, y)
    offset: np.ndarray  # [2] px
    contrast: float
    brightness: float
    grain: float
    grain_seed: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    prepare.add_output_arguments(parser)
    parser.add_argument("--train", type=int, default=320, help="clips to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=0, help="clips to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=160, help="clips to test on (default: %(default)s)")
    parser.add_argument("--size", type=int, default=defaults.size, help="px, even (default: %(default)s)")
    parser.add_argument("--frames", type=int, help=f"a clip (default: {defaults.frames}; {UNTRIMMED} untrimmed)")
    parser.add_argument("--untrimmed", action="store_true", help="long videos with several actions, and segments.csv")
    parser.add_argument("--classes", metavar="N or NAME,NAME", help="the first N, or these (default: all)")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--difficulty", type=float, default=defaults.difficulty, help="0..1, how strong the background is (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    args.frames = args.frames or (UNTRIMMED if args.untrimmed else Settings().frames)
    if args.size < 16 or args.size % 2 or args.frames < 2 or not 0 <= args.difficulty <= 1:
        raise ConfigError("--size must be even and 16 or more, --frames 2 or more, --difficulty 0 to 1")
    if min(args.train, args.val, args.test, args.seed) < 0 or not args.train + args.val + args.test:
        raise ConfigError("--train, --val, --test and --seed must be 0 or more, with at least one clip in all")
    settings = Settings(args.size, args.frames, args.seed, args.difficulty)
    classes = chosen(args.classes or str(len(CLASSES)))
    counts = dict(zip(PARTS, (args.train, args.val, args.test), strict=True))
    items = list(videos(counts) if args.untrimmed else clips(counts, classes))
    listing = Listing(
        name="motion_untrimmed" if args.untrimmed else "motion",
        classes=classes,
        splits=("split1",),
        table=table_of(items, ("split1",)),
        horizontal_flip="changes_labels",
        licence="rendered by this program; no rights reserved",
    )
    make, recipe = functools.partial(make_clip, settings), f"motion {RECIPE} {settings}"
    if args.untrimmed or classes != tuple(CLASSES):
        recipe += f" {classes}"
    if args.untrimmed:
        from data_prep.pipeline import untrimmed  # it renders with this module

        make = functools.partial(untrimmed.make, settings, classes)
    produce.produce(args.out, listing, make, recipe, args.workers)
    if args.untrimmed:
        listing.notes["actions"] = untrimmed.write_segments(args.out, settings, classes, items)
    return writer.finish(args.out, listing, recipe, vars(settings))


def chosen(said: str) -> tuple[str, ...]:
    """The classes that --classes says: "4", the first four, or "move_left,move_up"."""
    names = tuple(CLASSES)[: int(said)] if said.isdecimal() else tuple(said.split(","))
    for name in set(names) - CLASSES.keys():
        raise ConfigError(f"--classes: {one_of(name, list(CLASSES), 'class')}")
    if len(names) < 2 or len(set(names)) < len(names) or (said.isdecimal() and int(said) > len(CLASSES)):
        raise ConfigError(f"--classes: 2 to {len(CLASSES)}, or as many different names, not {said}")
    return names


def videos(counts: dict[str, int]) -> Iterator[Item]:
    """The long videos of each part; as a whole they are of no class."""
    for part, count in counts.items():
        for i in range(count):
            yield Item(f"{part}_{i:05d}.mp4", f"{part}/{i}", "", parts=(part,))


def clips(counts: dict[str, int], names: tuple[str, ...] = tuple(CLASSES)) -> Iterator[Item]:
    """The clips of each part, the classes in turn."""
    for part, count in counts.items():
        for i in range(count):
            label = names[i % len(names)]
            yield Item(f"{label}/{part}_{i:05d}.mp4", f"{part}/{i}", label, parts=(part,))


def make_clip(settings: Settings, item: Item, target: Path) -> produce.Facts:
    """Render the clip and encode it into `target`."""
    part, i = item.source.split("/")
    rng = np.random.default_rng([settings.seed, PARTS.index(part), int(i)])
    return encode(render(draw(rng, settings), item.label, settings), settings, target)


def encode(video: np.ndarray, settings: Settings, target: Path) -> produce.Facts:
    """[T, H, W, 3] uint8 into the file `target`."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{settings.size}x{settings.size}", "-r", str(FPS), "-i", "-"]
    ffmpeg.run([*raw, *ffmpeg.output(target, settings.crf, "veryfast")], TIMEOUT_S, video.tobytes())
    width, height, frames = ffmpeg.count(target)
    return produce.Facts(frames, FPS, width, height)


# A clip: what is in it, where it is at frame t, how it looks.


def draw(rng: np.random.Generator, settings: Settings) -> Scene:
    """A random scene, the same whatever the class will be."""
    n, size, difficulty = int(rng.integers(3, 5)), settings.size, settings.difficulty
    start = rng.integers(0, TURN, (n, 4))
    start[:, 3] = start[0, 3] + np.arange(n) * TURN // n  # sizes evenly spread: some shape is always in full view
    direction = rng.uniform(0, 2 * np.pi)
    drift_px = difficulty * rng.uniform(0.5, 2.0) * size / 96
    backdrop = rng.uniform(0.35, 0.65) + 0.7 * difficulty * (_texture(rng, size, 1.3, _colours(rng)) - 0.5)
    return Scene(
        shapes=tuple(Shape(_outline(rng), _texture(rng, 128, 1.6, _colours(rng))) for _ in range(n)),
        start=start.astype(np.uint16),
        speed=rng.uniform(),
        background=backdrop.astype(np.float32),
        drift=np.array([np.cos(direction), np.sin(direction)]) * drift_px,
        offset=rng.uniform(0, size, 2),
        contrast=rng.uniform(0.7, 1.0),
        brightness=rng.uniform(-0.1, 0.1),
        grain=rng.uniform(0.0, 0.03),
        grain_seed=int(rng.integers(1 << 31)),
    )


def states(scene: Scene, label: str, frame: int) -> np.ndarray:
    """[shapes, 4] uint16: where the shapes are on the torus. Sums wrap around."""
    return moved(scene.start, scene.speed, label, frame)


def moved(start: np.ndarray, speed: float, label: str, frames: int) -> np.ndarray:
    """[shapes, 4] uint16: where shapes at `start` are after some frames of the class; speed is 0 slowest to 1."""
    coordinate, sign = CLASSES[label]
    slow, fast = SLOWEST[coordinate], FASTEST[coordinate]
    step = round((slow + (fast - slow) * speed) * TURN)
    state = start.astype(np.int64)
    state[:, coordinate] += sign * step * frames
    return (state % TURN).astype(np.uint16)


def render(scene: Scene, label: str, settings: Settings) -> np.ndarray:
    """[T, H, W, 3] uint8."""
    times = range(settings.frames)
    moves = np.stack([states(scene, label, t) for t in times])  # [T, shapes, 4]
    return paint(scene, moves, np.arange(settings.frames), settings)


def paint(scene: Scene, moves: np.ndarray, times: np.ndarray, settings: Settings) -> np.ndarray:
    """[T, H, W, 3] uint8: the scene with its shapes at `moves` [T, shapes, 4], the background and grain of `times`."""
    picture = np.stack([_shifted(scene.background, scene.offset + scene.drift * t) for t in times])
    for k, shape in enumerate(scene.shapes):
        for frame, state in zip(picture, moves[:, k], strict=True):
            _draw_shape(frame, shape, state.astype(np.float64) / TURN)
    picture = (picture - 0.5) * scene.contrast + 0.5 + scene.brightness
    for frame, t in zip(picture, times, strict=True):
        rng = np.random.default_rng([scene.grain_seed, int(t)])
        frame += scene.grain * rng.standard_normal(frame.shape, dtype=np.float32)
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_shape(frame: np.ndarray, shape: Shape, state: np.ndarray) -> None:
    """Blend one shape into the frame [H, W, 3], around its edges if need be."""
    size = len(frame)
    x, y = state[:2] * size
    low, high = RADIUS
    radius = size * low * (high / low) ** state[3]
    ramp = min(1.0, min(state[3], 1 - state[3]) / FADE)
    alpha = ramp * ramp * (3 - 2 * ramp)
    reach = np.arange(-int(radius) - 2, int(radius) + 3)
    columns, rows = int(x) + reach, int(y) + reach
    dx, dy = (columns + 0.5 - x)[None, :] / radius, (rows + 0.5 - y)[:, None] / radius
    cos, sin = np.cos(2 * np.pi * state[2]), np.sin(2 * np.pi * state[2])
    u, v = dx * cos + dy * sin, dy * cos - dx * sin  # in the shape's own axes
    angle = (np.arctan2(v, u) * (len(shape.outline) / (2 * np.pi))).astype(np.int64) % len(shape.outline)
    cover = alpha * np.clip((shape.outline[angle] - np.hypot(u, v)) * radius + 0.5, 0, 1)[..., None]
    last = len(shape.texture) - 1
    at_u, at_v = (((axis.clip(-1, 1) + 1) * 0.5 * last).astype(np.int64) for axis in (u, v))
    place = np.ix_(rows % size, columns % size)
    frame[place] = frame[place] * (1 - cover) + shape.texture[at_v, at_u] * cover


def _shifted(image: np.ndarray, by_px: np.ndarray) -> np.ndarray:
    """The periodic image [H, W, 3] moved by (x, y) px, linear between pixels."""
    whole = np.floor(by_px).astype(int)
    fx, fy = (by_px - whole).astype(np.float32)
    image = np.roll(image, (whole[1], whole[0]), (0, 1))
    image = image * (1 - fx) + np.roll(image, 1, 1) * fx
    return image * (1 - fy) + np.roll(image, 1, 0) * fy


def _texture(rng: np.random.Generator, size: int, slope: float, colours: np.ndarray) -> np.ndarray:
    """[size, size, 3] in 0..1, periodic: noise with power falling as 1/f^slope, between two colours [2, 3]."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    strength = np.hypot(fx, fy)
    strength[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * strength**-slope
    noise = np.fft.irfft2(spectrum, (size, size))
    blend = 1 / (1 + np.exp(-3 * noise / noise.std()))
    first, second = colours
    return (first + (second - first) * blend[..., None]).astype(np.float32)


def _colours(rng: np.random.Generator) -> np.ndarray:
    """[2, 3]: a dark one and a bright one."""
    return np.stack([rng.uniform(0, 0.4, 3), rng.uniform(0.6, 1, 3)])


def _outline(rng: np.random.Generator) -> np.ndarray:
    """[1024] radius over angle, at most 1, never round: a turning shape must show that it turns."""
    angle = np.arange(1024) * (2 * np.pi / 1024) + rng.uniform(0, 2 * np.pi)
    kind = rng.integers(3)
    if kind == 0:  # an ellipse
        ratio = rng.uniform(0.4, 0.65)
        radius = ratio / np.sqrt((ratio * np.cos(angle)) ** 2 + np.sin(angle) ** 2)
    elif kind == 1:  # a star with a few points of unequal length
        points = rng.integers(3, 6)
        radius = 0.62 + 0.28 * np.cos(points * angle) + rng.uniform(0.05, 0.15) * np.cos(angle)
    else:  # a polygon through corners at random distances
        corners = int(rng.integers(3, 7))
        at = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * (2 * np.pi / corners)
        far = rng.uniform(0.55, 1.0, corners)
        radius = _polygon(angle, at, far)
    return (radius / radius.max()).astype(np.float32)


def _polygon(angle: np.ndarray, at: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The distance from the centre to the straight edges between the corners (angle, distance)."""
    corner = far[:, None] * np.stack([np.cos(at), np.sin(at)], 1)
    turned = (angle - at[0]) % (2 * np.pi)
    edge = np.searchsorted(at - at[0], turned, side="right") - 1
    a, b = corner[edge], corner[(edge + 1) % len(at)]
    ray = np.stack([np.cos(angle), np.sin(angle)], 1)
    along = b - a
    return np.abs(_cross(a, along) / _cross(ray, along))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
