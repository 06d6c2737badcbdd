"""Which runs share a cache of the teacher's answers, and which cannot have one."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from small_run import KD, TAUGHT
from vidkd import config_file, teacher_cache
from vidkd.data import index
from vidkd.errors import ConfigError


def test_a_published_loss_is_not_computed_on_pooled_maps():
    section, other = "teacher.cache={views: 1, pool: [2, 1, 1]}", "{kind: logits}, {kind: feature_consistency"
    with pytest.raises(ConfigError, match=r"methods\.1 \(feature_consistency\) would be another loss"):
        teacher_cache.check(config_file.load(KD, [*TAUGHT, section, f"methods=[{other}}}]"]))
    teacher_cache.check(config_file.load(KD, [*TAUGHT, section, f"methods=[{other}, faithful: false}}]"]))
    teacher_cache.check(config_file.load(KD, [*TAUGHT, "teacher.cache={views: 1}", f"methods=[{other}}}]"]))


def test_another_frame_rate_or_draw_is_another_cache(root):
    def key(*words):
        run = config_file.load(KD, [*TAUGHT, f"data.root={root}", "teacher.cache={views: 1}", *words])
        return teacher_cache.cache_key(run, index.read(root))

    assert key() == key("optim.lr=0.5")
    assert key() != key("data.fps=5")
    tap = "teacher.taps.late2={path: late, listen: input}"
    assert key() != key(tap) != key(tap.replace("input", "output"))
    assert key() != key("seed=1")  # no weights: the teacher is drawn by the seed


@pytest.mark.parametrize(
    "word",
    [
        "data.seed=5", "data.short=hold", "data.clip.stride=3", "data.clip.frames=4", "data.decoder=pyav",
        "data.augment.flip=0.25", "data.augment.crop_scale=[0.4, 0.9]", "data.augment.color_jitter=0.33",
        "data.augment.randaugment={}", "data.train=val", "teacher.name=tiny4", "teacher.view.size_px=24",
        "teacher.view.frames=4", "teacher.view.degrade.noise_std=0.1", "teacher.attention={head: gap}",
        "teacher.mixed_precision=bf16", "teacher.cache.dtype=int8", "teacher.cache.pool=[1, 1, 1]",
        "teacher.weights=WEIGHTS", "data.root=OTHER",
    ],
)  # fmt: skip
def test_whatever_the_answers_depend_on_is_in_the_key(root, tmp_path, word):
    weights, other = tmp_path / "weights.safetensors", tmp_path / "other"
    save_file({"x": torch.zeros(1)}, weights)
    shutil.copytree(root, other)
    index_file = other / "index.csv"
    index_file.write_text(index_file.read_text().replace("sha256:", "sha256:0", 1))

    def key(*words):
        section = "teacher.cache={views: 1, dtype: fp16}"
        run = config_file.load(KD, [*TAUGHT, f"data.root={root}", section, *words])
        return teacher_cache.cache_key(run, index.read(run.data.root))

    assert key() != key(word.replace("WEIGHTS", str(weights)).replace("OTHER", str(other)))
    for free in ("student.view.size_px=16", "teacher.cache.views=3", "teacher.cache.taps=[late]", "train.batch_size=2"):
        assert key() == key(free)  # a grid's runs share one cache


def test_other_weights_in_the_same_file_are_another_cache(root, tmp_path):
    weights, keys = tmp_path / "weights.safetensors", []
    for value in (0.0, 1.0):
        save_file({"x": torch.full((1,), value)}, weights)
        words = [*TAUGHT, f"data.root={root}", "teacher.cache={views: 1}", f"teacher.weights={weights}"]
        keys.append(teacher_cache.cache_key(config_file.load(KD, words), index.read(root)))
    assert keys[0] != keys[1]
