"""What `vidkd.plan` says before a run."""

import json
import re

import pytest

import tiny_set
from conftest import CONFIGS
from vidkd import config_file, plan
from vidkd.errors import ConfigError

FMD = next(p for p in CONFIGS if p.stem == "motion_fmd")
SMALL = ("teacher.weights=null", "teacher.allow_weak=true", "data.workers=0", "train.batch_size=4", "train.epochs=null",
         "train.steps=100", "optim.warmup=null", "data.clip.frames=8", "data.clip.stride=1")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_set.make(tmp_path_factory.mktemp("set") / "tiny")


def said(root, *overrides):
    return plan.plan(config_file.load(FMD, [*SMALL, f"data.root={root}", *overrides]), 2)


def test_sizes_adapters_and_hours(root):
    text = said(root)
    assert re.search(r"early \[T, H, W, C\] +8 x 16 x 16 x 8 +8 x 24 x 24 x 16\n", text)
    assert re.search(r"GMACs a clip +0\.019 +0\.153\n", text)
    assert re.search(
        r"feature_consistency +late 4 x 4 x 4 x 32 +late 4 x 6 x 6 x 64 .*projected to 64.* 2,048 +0\.\d{3}\n", text
    )
    assert re.search(r"feature_decoder +early 8 x 16 x 16 x 8 +input 8 x 48 x 48 x 3 +decoders \(per_frame\)", text)
    assert re.search(r"memory: \d+\.\d GiB", text)
    assert re.search(r"a step takes \d+\.\d\d s here \(.*teacher \d+ %.*\); 100 steps: ", text)
    assert "with teacher.cache={views: 8} a step would take 0." in text
    # 4 logits and 64 x 4 x 6 x 6 of the late map, in halves, of 8 views
    assert "147,520 bytes a clip" in text
    assert re.search(r"in 8 epochs; after these it has paid for itself, and this run has 17: it pays in this run", text)


def test_when_a_cache_pays(root, tmp_path):
    cache = f"teacher.cache={{views: 20, dir: {tmp_path}}}"
    text = said(root, cache)
    assert "logits + late of 20 views of 24 clips" in text
    assert re.search(
        r"as long as the live teacher in 20 epochs; after these .* this run has 17: it pays from the next run on", text
    )
    assert "it pays in this run" in said(root, cache, "train.steps=1000")


def test_a_run_without_a_teacher(root):
    text = said(root, "teacher=null", "methods=[]")
    assert "joined by" not in text
    assert "teacher" not in text.partition("steps on")[2]


def test_the_command(root, capsys):
    assert plan.main([str(FMD), *SMALL, f"data.root={root}", "--steps", "1"]) == 0
    assert "motion_fmd: 24 clips, 6 steps of 4 an epoch, 100 steps on" in capsys.readouterr().out


def test_what_the_clips_and_the_methods_lack_is_said_at_once(root):
    with pytest.raises(
        ConfigError, match=r"(?s)student.view.frames is 9, more than the 8.*no tap 'lat'; did you mean 'l"
    ):
        said(root, "student.view.frames=9", "methods.1.student_tap=lat")
    with pytest.raises(ConfigError, match=r"(?s)teacher.view.frames is 9, more.*methods.0.weights: no loss term 'kdd'"):
        said(root, "teacher.view.frames=9", "methods.0.weights={kdd: 1}")


def test_everything_that_does_not_fit_is_said_at_once(root):
    with pytest.raises(ConfigError, match=r"(?s)small_r3d needs at least 2 frames, not 1.*i3d needs at least 16 px a"):
        said(root, "student.name=small_r3d", "student.view.frames=1", "teacher.name=i3d", "teacher.view.size_px=8")
    wrong = [{"kind": "feature_consistency", "student_tap": "lat"}, {"kind": "feature_decoder", "student_tap": "erly"}]
    with pytest.raises(ConfigError, match=r"(?s)no tap 'lat'; did you mean 'late'.*no tap 'erly'; did you"):
        said(root, f"methods={json.dumps(wrong)}")
