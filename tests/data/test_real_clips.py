"""Real clips, where they are: every kind of file there is decodes to the frames ffmpeg counts, and makes clips."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pyarrow as pa
import pytest
import torch

from vidkd.config import Augment, ClipSpec, Data, TestViews, ViewSpec
from vidkd.data import clips, index, order
from vidkd.data.decode import open_video

SETS = {"jhmdb21": ("*.mp4", 40), "ucf101_6": ("*.mp4", 40), "ucf101_raw": ("*.avi", 3)}


def some(shared: Path, name: str) -> list[Path]:
    pattern, every = SETS[name]
    paths = sorted((shared / "data" / name).rglob(pattern))[::every]
    if not paths:
        pytest.skip(f"no {name} in {shared}/data")
    return paths


def sequence(path: Path, width: int, height: int) -> torch.Tensor:
    """[N, 3, H, W]: every frame, as the ffmpeg program decodes it from start to end."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-threads",
        "1",
        "-i",
        str(path),
        "-fps_mode",
        "passthrough",
    ]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    return torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).view(-1, height, width, 3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", SETS)
def test_frames_are_those_of_ffmpeg(shared: Path, name: str):
    for path in some(shared, name)[:5]:
        with open_video(path) as video:
            truth = sequence(path, video.width, video.height)
            assert video.frames == len(truth)
        for start in (0, len(truth) // 2, max(len(truth) - 9, 0)):
            indices = list(range(start, len(truth), 3))[:3]
            with open_video(path) as video:
                difference = (video.get(indices).float() - truth[indices].float()).abs().mean((1, 2, 3))
            assert difference.max() < 1.5, (path, indices)  # its conversion to RGB rounds differently


@pytest.mark.parametrize("name", SETS)
def test_clips_of_real_videos(shared: Path, name: str):
    rows = []
    for path in some(shared, name):
        with open_video(path) as video:
            size = {"frames": video.frames, "fps": video.fps, "width": video.width, "height": video.height}
        row = {"path": str(path), "bytes": path.stat().st_size, "checksum": "", "label": "", "group": ""}
        rows.append(row | size | {"status": "ok", "reason": ""})
    table = pa.Table.from_pylist(rows, pa.schema(index.SCHEMA))
    part = index.Part(Path("/"), table, pa.array([0] * len(rows)))
    views = {"teacher": ViewSpec(size_px=112), "student": ViewSpec(size_px=56, frames=8)}
    made = {}
    for workers in (0, 2):
        data = Data(
            root=Path("."),
            clip=ClipSpec(frames=16, stride=2),
            augment=Augment(color_jitter=0.4),
            test_views=TestViews(clips=2, crops=3),
            workers=workers,
        )
        sampler = order.StepSampler(len(part), min(4, len(part)), 0, 0, 3, 0, 1)
        made[workers] = list(clips.train_loader(part, data, views, sampler, run_seed=0))
        tested = [batch for batch in clips.test_loader(part, data, views, 2, 0, 1)]
        assert sum(len(batch.clip) for batch in tested) == 6 * len(part)
    for one, other in zip(made[0], made[2], strict=True):
        assert all(torch.equal(one.views[view], other.views[view]) for view in views)
        assert one.views["teacher"].float().std() > 10
