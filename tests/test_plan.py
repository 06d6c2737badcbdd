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
    assert re.search(r"early \[T, H, W, C\] +8x16x16x8 +8x24x24x16\n", text)
    assert re.search(r"GMACs a clip +0\.019 +0\.153\n", text)
    assert re.search(
        r"feature_consistency +2,048 +0\.\d{3} +late(_signed)? 4x4x4x32 +late(_signed)? 4x6x6x64\n +joined by .*"
        r"projected to 64",
        text,
    )
    assert re.search(
        r"feature_decoder +[\d,]+ +0\.\d{3} +early 8x16x16x8 +input 8x48x48x3\n"
        r" +joined by a decoder \(subpixel\) per_frame, drawing 8x32x32x3; the target pooled to it\n",
        text,
    )
    assert max(map(len, text.splitlines())) <= plan.WIDTH
    text = " ".join(text.split())
    assert re.search(r"memory: \d+\.\d GiB", text)
    assert re.search(r"a step takes \d+\.\d\d s here \(.*teacher \d+ %.*\); 100 steps: ", text)
    assert "with teacher.cache={views: 8} a step would take 0." in text
    # 4 logits and 64 x 4 x 6 x 6 of the late map, in halves, of 8 views
    assert "147,520 bytes a clip" in text
    assert re.search(r"in \d+ epochs; after these it has paid for itself, and this run has 17: it pays ", text)


def test_when_a_cache_pays(root, tmp_path, monkeypatch):
    """The teacher of a batch takes 2 s and its clips 1 s: 20 views of 6 batches take 360 s, and 12 s an epoch are saved
    by it, so that it takes 30 epochs."""
    spent = {"data": 1.0, "teacher": 2.0, "student": 0.5}
    monkeypatch.setattr(plan, "take_steps", lambda *args: spent)
    cache = f"teacher.cache={{views: 20, dir: {tmp_path}}}"
    text = " ".join(said(root, cache).split())
    assert "logits + late_signed of 20 views of 24 clips" in text
    assert "a step takes 1.50 s here (data 67 %, student 33 %)" in text
    takes = (
        "building the cache takes 6 min with the making of its clips, as long as the live teacher in 30 epochs; after"
    )
    assert f"{takes} these it has paid for itself, and this run has 17: it pays from the next run on" in text
    assert "and this run has 30: it pays from" in " ".join(said(root, cache, "train.steps=180").split())
    assert "and this run has 31: it pays in this run" in " ".join(said(root, cache, "train.steps=186").split())


def test_a_run_without_a_teacher(root):
    text = said(root, "teacher=null", "methods=[]")
    assert "joined by" not in text
    assert "teacher" not in text.partition("steps on")[2]


def methods(tap):
    compared = {"kind": "feature_consistency", "student_tap": tap, "teacher_tap": tap, "faithful": False}
    return f"methods={json.dumps([compared])}"


def test_maps_without_a_direction_are_counted_and_mended(root):
    text = " ".join(said(root, methods("late"), "student.view.size_px=16").split())
    assert re.search(
        r"careful: methods\.0 \(feature_consistency\) compares directions, and no late map of the student is negative "
        r"anywhere: .* of this batch \(2x2\) \d+% are\. .* ReLU: methods\.0\.student_tap=late_signed",
        text,
    )
    assert "careful" not in said(root, methods("early"))  # 16 x 16 and 24 x 24: hardly any is all zero
    assert "careful" not in said(root, methods("late_signed"), "student.view.size_px=16")
    early = " ".join(said(root, methods("middle"), "student.view.size_px=8").split())
    assert "student.taps={signed: {path: <the block's last ReLU>, listen: input}} methods.0.student_tap=signed" in early


def test_maps_too_small_for_a_direction_are_named(root):
    text = " ".join(said(root, methods("late_signed"), "student.view.size_px=8").split())
    assert (
        "careful: methods.0 (feature_consistency) compares directions, and a late_signed map of the student has 1 "
        "number(s) (1x1): take an earlier tap (see student.taps), whose maps are larger" in text
    )


def test_a_clip_a_network_cannot_take_is_named_with_the_overrides_that_mend_it(root):
    text = r"student: mvit_v2_s takes 16 frames, not 8; takes 224 px a side, not 32; set student.view.frames=16 "
    text += r"student.view.size_px=224, or student.options=\{frames: ..., size_px: ...\} to build it for other clips"
    teacher = r"teacher: slowfast_r50 needs a multiple of 4 frames, not 6; set teacher.view.frames=8$"
    with pytest.raises(ConfigError, match=f"(?s){text}.*{teacher}"):
        said(root, "student.name=mvit_v2_s", "student.options={}", "teacher.name=slowfast_r50", "teacher.view.frames=6")


def test_methods_dearer_than_the_teacher_are_named_with_what_is_cheaper(root):
    drawn, small = "methods=[{kind: feature_decoder, form: spatiotemporal%s}]", "student.view={size_px: 16, frames: 4}"
    text = " ".join(said(root, drawn % "", small).split())
    assert re.search(
        r"careful: methods\.0 \(feature_decoder\) adds 0\.347 GMACs a clip, the teacher takes 0\.153; cheaper: "
        r"methods\.0\.upsample=interp methods\.0\.width=3 methods\.0\.doublings=2",
        text,
    )
    assert "careful: methods" not in said(root, drawn % ", upsample: interp, width: 3, doublings: 2", small)


def test_the_attention_has_no_rows_and_columns(root):
    words = ["student.attention={head: gap}", "teacher.attention={head: gap}"]
    assert re.search(r"attention \[T, C\] +4x32 +4x64\n", said(root, *words, "methods=[{kind: generative_attention}]"))


def test_what_joins_attentions_and_features_of_other_sizes_is_said(root):
    words = ["student.attention={head: gap}", "teacher.attention={head: gap}", "student.view={size_px: 32, frames: 4}"]
    text = " ".join(said(root, *words, "methods=[{kind: generative_attention, generative: mixed}]").split())
    assert (
        "joined by a linear map of channels, sigmoid, the student's 2 samples of time interpolated to 4 late, attention"
    ) in text
    assert "joined by a CVAE: mixed, the student's maps brought from 2x4x4 to 4x6x6" in text
    same = ["student.options={}", "student.view={size_px: 48}", "methods=[{kind: generative_attention}]"]
    text = said(root, *words[:2], *same)
    assert "joined by nothing: the same channels and length\n" in text and "joined by a CVAE: release\n" in text


def test_each_network_that_lacks_an_attention_is_named_with_what_adds_it(root):
    with pytest.raises(ConfigError) as error:
        said(root, "methods=[{kind: logits}, {kind: generative_attention}]")
    assert str(error.value).splitlines() == [
        f"{'methods.1 (generative_attention): ' * (who == 'student')}small_r3d carries no attention; add "
        f"{who}.attention: {{head: gap}}"
        for who in ("student", "teacher")
    ]


def test_what_a_cache_cannot_hold_is_said_before_any_step(root):
    cache = "teacher.cache={views: 2, taps: [lat], pool: [1, 2, 2]}"
    with pytest.raises(ConfigError, match=r"(?s)teacher.cache.pool: on pooled maps methods.1.*no tap 'lat'; did you"):
        said(root, cache, "methods.1.faithful=true")


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
