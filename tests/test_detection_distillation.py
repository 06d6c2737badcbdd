"""What detectors learn from each other: the maps of their pyramids, and where they see actions."""

import pytest
import torch

from conftest import CONFIGS
from vidkd import config_file, distiller
from vidkd.types import ClipBatch

CONFIG = next(path for path in CONFIGS if path.stem == "thumos14_fmd")
BOTH = "frames: 16, width: 32, levels: 3"
SMALL = ["data.clip.frames=16", "data.windows=null", "student.weights=null", "student.adapt=none",
         "teacher.weights=null", "student.reset_head=false", "student.view.size_px=16", "teacher.view.size_px=32",
         f"student.options={{backbone: tiny4, size_px: 16, {BOTH}}}",
         f"teacher.options={{backbone: tiny16, size_px: 32, {BOTH}}}"]  # fmt: skip


@pytest.fixture
def built():
    """A student at half of the teacher's side, and two clips."""
    run = config_file.load(CONFIG, SMALL)
    torch.manual_seed(0)
    trainee, teacher, _ = distiller.build(run, 4)
    views = {
        name: torch.randint(0, 256, (2, 3, 16, v.size_px, v.size_px), dtype=torch.uint8)
        for name, v in run.views().items()
    }
    return trainee, teacher, ClipBatch(views, torch.tensor([0, 1]), ("a", "b"))


def test_every_level_is_compared_and_learns(built):
    trainee, teacher, batch = built
    _, terms = trainee(batch, teacher(batch.seen_by("teacher")))
    own = {name: term for name, term in terms.items() if name.startswith("feature_")}
    assert set(own) == {"feature_consistency/consistency", "feature_consistency_2/consistency", "feature_decoder/gram",
                        "feature_decoder/l1"}  # fmt: skip
    heads = trainee.student.net.heads
    for name, term in own.items():
        learned = torch.autograd.grad(term, [heads.fine.conv.weight, heads.coarse.conv.weight], retain_graph=True,
                                      allow_unused=True)  # fmt: skip
        reached = [g is not None and bool(g.abs().max() > 0) for g in learned]
        expected = {"feature_consistency/consistency": [True, False]}  # level 0, before level 1 is added
        assert reached == expected.get(name, [False, True]), name


def test_maps_with_signs(built):
    """What is compared has both signs in every clip; behind the ReLUs a channel may be zero over all of the time, and a
    map of zeros has no direction."""
    trainee, _, batch = built
    taps = trainee.student(batch.seen_by("student")).taps
    for i in range(3):
        signed, level = taps[f"signed_{i}"], taps[f"pyramid_{i}"]
        assert signed.shape == level.shape
        assert signed.min() < 0 < signed.max() and level.min() >= 0
    assert torch.equal(taps["signed_1"].relu(), taps["pyramid_1"])


def test_a_pyramid_is_consistent_with_itself_alone(built):
    """The teacher's own maps cost nothing; the same maps a sample later do: it is the course over time that counts."""
    trainee, teacher, batch = built
    seen = teacher(batch.seen_by("teacher"))
    method = trainee.methods[2]
    own = method(batch, seen, seen)["consistency"]
    later = type(seen)(seen.logits, {n: t.roll(1, 2) if t.ndim == 5 else t for n, t in seen.taps.items()}, seen.video)
    moved = method(batch, later, seen)["consistency"]
    assert own <= 1e-5
    assert moved > 100 * own


def test_the_plan_names_the_levels(built):
    pairs = [pair for method in built[0].each_method() for pair in method.compares()]
    assert [(p.student, p.teacher) for p in pairs if "_" in p.student] == [
        ("signed_0 16x1x1x32", "signed_0 16x1x1x32"),
        ("signed_1 8x1x1x32", "signed_1 8x1x1x32"),
        ("pyramid_1 8x1x1x32", "pyramid_0 16x1x1x32"),
    ]
