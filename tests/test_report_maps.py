"""The maps of a trained run: drawn for its report, and counted by benchmarks/dead_maps.py."""

import runpy

import pytest
import torch

import tiny_set
from conftest import CONFIGS, REPOSITORY
from vidkd import cli, config_file, train
from vidkd.errors import ConfigError
from vidkd.methods._maps import at_frames
from vidkd.report import maps, material
from vidkd.report.__main__ import main

FMD = next(p for p in CONFIGS if p.stem == "motion_fmd")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run that compared maps."""
    folder = tmp_path_factory.mktemp("maps")
    root, out = tiny_set.make(folder / "tiny", train=4, test=5), folder / "run"
    words = [f"data.root={root}", f"out={out}", "teacher.weights=null", "teacher.allow_weak=true", "train.epochs=null",
             "train.steps=2", "train.batch_size=4", "optim.warmup=null", "data.clip.frames=4", "data.clip.stride=1",
             "methods.2.form=both"]  # fmt: skip
    train.train(config_file.load(FMD, words))
    return out


def test_a_run_with_feature_maps_shows_them(out, capsys):
    assert cli.run_main(main, [str(out)]) == 0
    assert "left out: Feature maps" not in capsys.readouterr().out
    text = (out / "report.html").read_text(encoding="utf-8")
    for caption in (
        "teacher: input",
        "teacher: late_signed map, 2x6x6",
        "student: late_signed map, 2x4x4",
        "drawn (per_frame)",
        "drawn (spatiotemporal)",
    ):
        assert text.count(f"<figcaption>{caption}") == 4, caption


def test_a_heat_map_shows_where_features_differ_from_their_means():
    """A bias, and a channel that is the same everywhere, leave no trace; the place that stands out is the brightest."""
    features = torch.full((1, 3, 2, 4, 4), -7.0)
    features[0, 1, 1, 2, 3] = -20.0  # their mean is the smallest there
    colours = maps.as_heat(features)
    assert colours.shape == (3, 2, 64, 64)
    brightest = (colours == torch.tensor(maps.HOT).mul(255).round().to(torch.uint8).view(3, 1, 1, 1)).all(0).nonzero()
    assert len(brightest) == 16 * 16
    assert brightest.min(0).values.tolist() == [1, 32, 48]
    assert not maps.as_heat(torch.zeros(1, 2, 2, 4, 4)).float().std((1, 2, 3)).any()


def test_strips_show_the_same_moments(out):
    """Of the 4 frames of the input, the deep maps have 2: each is shown under both of its frames."""
    (run,) = material.read(out).rows
    trainee, teacher = maps._trained(run.cells[0], 4)
    small, large = torch.rand(1, 3, 4, 32, 32), torch.rand(1, 3, 4, 48, 48)
    with torch.no_grad():
        rows = maps.compared(trainee, teacher.tapped, trainee.student(small), teacher(large))
    captions = [caption.partition(":")[0].partition(" ")[0] for caption, _ in rows]
    assert captions == ["teacher", "drawn", "drawn", "teacher", "student"]
    for caption, picture in rows:
        side = picture.height
        assert picture.width == 4 * side + 3 * max(side // 32, 1), caption
    assert maps.strip(maps.as_heat(at_frames(torch.rand(1, 2, 2, 4, 4), 4))).size == rows[-1][1].size


def test_maps_without_a_direction_are_counted(out, capsys):
    """A map before its ReLU is nowhere all zero; behind it, it is never negative."""
    main = runpy.run_path(str(REPOSITORY / "benchmarks" / "dead_maps.py"))["main"]
    assert main([str(out), "--tap", "late", "late_signed", "--clips", "3"]) == 0
    found = {}
    for line in capsys.readouterr().out.splitlines()[2:]:
        _, who, tap, size, *shares, least, _ = (cell.strip() for cell in line.split("|"))
        found[who, tap] = size, [float(share.rstrip("%")) for share in shares], float(least)
    assert [found["student", "late"][0], found["teacher", "late"][0]] == ["2x4x4x32", "2x6x6x64"]
    for who in ("student", "teacher"):
        (_, (clip, frame), least), (_, signed, negative) = found[who, "late"], found[who, "late_signed"]
        assert 0 <= clip <= frame and least == 0
        assert signed == [0, 0] and negative < 0
    with pytest.raises(ConfigError, match="no tap 'lat'; did you mean 'late'"):
        main([str(out), "--tap", "lat"])
