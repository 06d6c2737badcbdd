"""The maps of a trained run: drawn for its report, and counted by benchmarks/dead_maps.py."""

import runpy

import pytest

import tiny_set
from conftest import CONFIGS, REPOSITORY
from vidkd import cli, config_file, train
from vidkd.errors import ConfigError
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
        "teacher: late_signed map",
        "student: late_signed map",
        "drawn (per_frame)",
        "drawn (spatiotemporal)",
    ):
        assert text.count(f"<figcaption>{caption}") == 3, caption


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
