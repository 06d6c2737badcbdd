"""The report's feature maps: drawn for a run that compares maps, from its own checkpoint."""

import tiny_set
from conftest import CONFIGS
from vidkd import cli, config_file, train
from vidkd.report.__main__ import main

FMD = next(p for p in CONFIGS if p.stem == "motion_fmd")


def test_a_run_with_feature_maps_shows_them(tmp_path, capsys):
    root, out = tiny_set.make(tmp_path / "tiny", train=4, test=5), tmp_path / "run"
    words = [f"data.root={root}", f"out={out}", "teacher.weights=null", "teacher.allow_weak=true", "train.epochs=null",
             "train.steps=2", "train.batch_size=4", "optim.warmup=null", "data.clip.frames=4", "data.clip.stride=1",
             "methods.2.form=both"]  # fmt: skip
    train.train(config_file.load(FMD, words))
    assert cli.run_main(main, [str(out)]) == 0
    assert "left out: Feature maps" not in capsys.readouterr().out
    text = (out / "report.html").read_text(encoding="utf-8")
    for caption in (
        "teacher: input",
        "teacher: late map",
        "student: late map",
        "drawn (per_frame)",
        "drawn (spatiotemporal)",
    ):
        assert text.count(f"<figcaption>{caption}") == 3, caption
