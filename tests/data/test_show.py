"""The contact sheet shows the very frames the loader makes, and says which they are."""

import dataclasses
import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torchvision import io

from data import numbered
from vidkd.config import Augment, ClipSpec, Data, ViewSpec
from vidkd.data import clips, show
from vidkd.errors import ConfigError


def test_each_frame_is_labelled_with_its_number_and_time(tmp_path: Path):
    data_set = numbered.prepared(tmp_path, [40, 3, 25])
    part = data_set.part("split1", "train")
    data = Data(root=tmp_path, clip=ClipSpec(frames=4, stride=3), augment=Augment(flip=0, crop_scale=None))
    views = {"teacher": ViewSpec(size_px=64), "student": ViewSpec(size_px=32, frames=2)}
    figure = show.draw(data_set, part, data, views, n=3, epoch=1)
    source = clips.TrainClips(part, data, views, run_seed=0)
    axes = figure.axes
    for row, i in enumerate((0, 1, 2)):
        for below, (name, columns) in enumerate((("teacher", [0, 1, 2, 3]), ("student", [0, 2]))):
            video = source.load((1, i)).views[name][0]
            line = axes[(2 * row + below) * 4 :][:4]
            assert [bool(axis.images) for axis in line] == [c in columns for c in range(4)]
            for number, frame, column in zip(numbered.numbers(video.transpose(0, 1)), video[0], columns, strict=True):
                assert line[column].get_title() == f"{number} · {number / 25:.2f} s"
                assert torch.equal(torch.tensor(line[column].images[0].get_array()[..., 0]), frame)


def test_a_long_name_that_is_cut_says_so(tmp_path: Path):
    data_set = numbered.prepared(tmp_path, [4, 4])
    long, fits = "v_ApplyEyeMakeup_from_a_film_g01_c01.mp4", f"{'x' * 28}.mp4"
    for old, new in (("clip_0.mp4", long), ("clip_1.mp4", fits)):
        (tmp_path / old).rename(tmp_path / new)
    data_set = dataclasses.replace(data_set, facts=data_set.facts.set_column(0, "path", pa.array([long, fits])))
    data = Data(root=tmp_path, clip=ClipSpec(frames=2, stride=1), augment=Augment(flip=0, crop_scale=None))
    figure = show.draw(data_set, data_set.part("split1", "train"), data, {"student": ViewSpec(size_px=32)}, 2, 0)
    said = [axis.texts[0].get_text().splitlines()[1] for axis in figure.axes[::2]]
    assert said == ["…eMakeup_from_a_film_g01_c01", "x" * 28]


def test_the_command_writes_a_picture(tmp_path: Path):
    numbered.prepared(tmp_path, [20, 3])
    out = tmp_path / "new" / "sheet.png"
    assert show.main([str(tmp_path), "--out", str(out), "--clips", "1"]) == 0
    assert io.decode_image(str(out)).shape[0] >= 3
    with pytest.raises(ConfigError, match=r"--out .*new: cannot be written \(Is a directory\)"):
        show.main([str(tmp_path), "--out", str(out.parent), "--clips", "1"])
    with pytest.raises(ConfigError, match="say which with --config"):
        show.main([str(tmp_path), "data.clip.frames=4"])
    with pytest.raises(ConfigError, match="at least 1 clip"):
        show.main([str(tmp_path), "--clips", "0"])


def test_a_missing_folder_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["show", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(show.__file__, run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/nothing: no such folder") and said.count("\n") == 1
