"""FMC against arithmetic by hand (../shared/methods/fmd.md, sections 2, 3.4 and 8)."""

import json
import math

import pytest
import torch

from conftest import REPOSITORY
from vidkd import config_file, distiller
from vidkd.methods import feature_consistency as fmc
from vidkd.methods._maps import at_frames, dead_share
from vidkd.methods.feature_consistency import consistency_loss, reverse_huber
from vidkd.types import ClipBatch, View

FORMS = ["per_frame", "spatiotemporal"]
MODES = [{"faithful": True}, {"faithful": True, "normalize_size": True}, {"faithful": False}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_map_is_consistent_with_itself(form, mode):
    maps = torch.randn(2, 5, 3, 4, 6)
    assert consistency_loss(maps, maps, form, **mode) <= 1e-6


@pytest.mark.parametrize(("form", "expected"), [("per_frame", 1.4792), ("spatiotemporal", 2.9584)])
def test_size_of_constant_maps_grows_with_their_height_as_released(form, expected):
    """sqrt(23) - sqrt(11), and twice that over 4 frames: every entry is the largest, so rho(e) = (1 + 0.36) e / 1.2."""
    student, teacher = torch.ones(2, 3, 4, 11, 11), torch.ones(2, 3, 4, 23, 23)
    loss = consistency_loss(student, teacher, form)
    assert loss.item() == pytest.approx(expected * (1 + 0.36) / 1.2, abs=1e-3)
    exact = {"per_frame": 1, "spatiotemporal": 2}[form] * (math.sqrt(23) - math.sqrt(11))
    assert exact == pytest.approx(expected, abs=1e-4)
    assert consistency_loss(student, teacher, form, normalize_size=True) <= 1e-6
    assert consistency_loss(student, teacher, form, faithful=False) <= 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_twice_the_map_differs_by_its_root_mean_square(form):
    maps = torch.randn(1, 1, 1, 5, 7)
    rms = maps.pow(2).mean().sqrt()
    loss = consistency_loss(2 * maps, maps, form, faithful=False)
    assert loss.item() == pytest.approx(float(rms) * (1 + 0.36) / 1.2, rel=1e-5)  # direction is the same: size alone


def test_the_size_of_twice_the_maps_differs_by_their_mean_root_mean_square():
    maps = torch.randn(4, 5, 2, 3, 6)
    difference = (fmc._rms(2 * maps) - fmc._rms(maps)).abs().mean()
    assert difference.item() == pytest.approx(float(maps.pow(2).mean((2, 3, 4)).sqrt().mean()), rel=1e-6)


def test_opposite_directions_count_two():
    maps = torch.randn(1, 1, 1, 5, 7)
    loss = consistency_loss(-maps, maps, "spatiotemporal", faithful=False)
    assert loss.item() == pytest.approx(2 * (1 + 0.36) / 1.2, rel=1e-5)


def test_the_released_form_compares_signed_maps():
    run = config_file.load(REPOSITORY / "configs/motion_fmd_faithful.yaml", ["teacher.weights=null"])
    trainee, teacher, _ = distiller.build(run, num_classes=8)
    assert teacher is not None
    taps = trainee.student(torch.rand(1, 3, 8, 32, 32)).taps
    assert taps["deep"].min() < 0 and torch.equal(taps["deep"].relu(), taps["late"])
    assert taps["shallow"].min() < 0 and torch.equal(taps["shallow"].relu(), taps["early"])
    assert teacher(torch.rand(1, 3, 8, 48, 48)).taps["deep"].min() < 0


@pytest.mark.parametrize("mode", MODES)
def test_over_one_frame_the_two_forms_are_one(mode):
    student, teacher = torch.randn(2, 5, 1, 4, 4), torch.randn(2, 5, 1, 9, 7)
    a, b = (consistency_loss(student, teacher, form, **mode) for form in FORMS)
    assert a == b


def test_the_faithful_form_against_loops():
    student, teacher = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 4, 8, 8)
    errors = []
    for b in range(2):
        for c in range(3):
            for t in range(2):
                s, full = student[b, c, t], teacher[b, c, 2 * t]  # index floor(t * 4 / 2)
                small = full[::2, ::2]  # nearest, as torch's interpolate takes it
                size = abs(sum(s[:, w].norm() for w in range(4)) / 4 - sum(full[:, w].norm() for w in range(8)) / 8)
                cos = [s[:, w] @ small[:, w] / (s[:, w].norm() * small[:, w].norm()) for w in range(4)]
                errors.append(float(size + sum(1 - x for x in cos) / 4))
    loss = consistency_loss(student, teacher, "per_frame")
    assert loss.item() == pytest.approx(huber_mean(errors), rel=1e-5)


def huber_mean(errors):
    c = 0.6 * max(errors)
    return sum(e if e < c else (e * e + c * c) / (2 * c) for e in errors) / len(errors)


def test_the_faithful_form_over_time_against_loops():
    """Vectors over (t, h), one a column; sizes of the teacher's own map, directions of the nearest places."""
    student, teacher = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 4, 8, 8)
    errors = []
    for b in range(2):
        for c in range(3):
            s, full = student[b, c], teacher[b, c]
            small = full[::2, ::2, ::2]
            size = abs(sum(s[..., w].norm() for w in range(4)) / 4 - sum(full[..., w].norm() for w in range(8)) / 8)
            cos = [(s[..., w] * small[..., w]).sum() / (s[..., w].norm() * small[..., w].norm()) for w in range(4)]
            errors.append(float(size + sum(1 - x for x in cos) / 4))
    loss = consistency_loss(student, teacher, "spatiotemporal")
    assert loss.item() == pytest.approx(huber_mean(errors), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_default_form_of_whole_maps_against_loops(form):
    """One vector a map; sizes are root mean squares; directions of the teacher's means over areas (and over time)."""
    student, teacher = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 4, 8, 8)
    errors = []
    for b in range(2):
        for c in range(3):
            s, full = student[b, c], teacher[b, c]
            small = sum(full[:, i::2, j::2] for i in range(2) for j in range(2)) / 4
            pairs = [(s[t], full[2 * t], small[2 * t]) for t in range(2)]
            if form == "spatiotemporal":
                pairs = [(s, full, (small[::2] + small[1::2]) / 2)]
            for own, theirs, pooled in pairs:
                size = abs(own.pow(2).mean().sqrt() - theirs.pow(2).mean().sqrt())
                errors.append(float(size + 1 - (own * pooled).sum() / (own.norm() * pooled.norm())))
    loss = consistency_loss(student, teacher, form, faithful=False)
    assert loss.item() == pytest.approx(huber_mean(errors), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_faint_maps_have_a_direction_too(form, mode):
    maps = 1e-3 * torch.randn(2, 3, 2, 4, 4)
    assert consistency_loss(-maps, maps, form, **mode) == pytest.approx(2 * (1 + 0.36) / 1.2, rel=0.01)


def a_method(**options):
    """That of a student of 2 x 4 x 4 x 32 and a teacher of 4 x 6 x 6 x 64, and the views of one batch."""
    run = config_file.load(REPOSITORY / "configs/motion_fmd.yaml", ["teacher.weights=null", "student.view.frames=4",
                           f"methods={json.dumps([{'kind': 'feature_consistency', **options}])}"])  # fmt: skip
    torch.manual_seed(0)
    trainee, teacher, _ = distiller.build(run, num_classes=4)
    assert teacher is not None
    return trainee.methods[0], trainee.student(torch.rand(2, 3, 4, 32, 32)), teacher(torch.rand(2, 3, 8, 48, 48))


def test_the_form_both_is_the_mean_of_the_two():
    method, student, teacher = a_method(form="both")
    maps = method.project(student.taps["late"]), teacher.taps["late"]
    expected = (consistency_loss(*maps, "per_frame") + consistency_loss(*maps, "spatiotemporal")) / 2
    torch.testing.assert_close(method(None, student, teacher)["consistency"], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_loss_is_that_of_float32(dtype):
    method, student, teacher = a_method()
    taps = {name: maps.to(dtype) for name, maps in student.taps.items()}, teacher.taps
    views = [View(view.logits, own) for view, own in zip((student, teacher), taps, strict=True)]
    with torch.autocast("cpu", dtype=dtype):
        projected = method.project(views[0].taps["late"])
        assert projected.dtype == dtype
        loss = method(None, *views)["consistency"]
    expected = consistency_loss(projected.float(), views[1].taps["late"].float(), "per_frame")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_the_defaults_are_those_of_the_specification():
    """Section 4."""
    config = fmc.Config(kind="feature_consistency")
    assert (config.faithful, config.form, config.normalize_size) == (True, "per_frame", False)
    assert config.weight("consistency", 0) == 0.9
    assert (fmc.BERHU_SHARE, fmc.COSINE_EPS) == (0.6, 1e-6)


def test_the_reverse_huber_is_smooth_where_it_turns():
    c = 0.6 * 5.0
    below = torch.tensor([5.0, c - 1e-4], requires_grad=True)
    above = torch.tensor([5.0, c + 1e-4], requires_grad=True)
    values, slopes = [], []
    for error in (below, above):
        rho = reverse_huber(error)
        values.append(rho[1].item())
        slopes.append(torch.autograd.grad(rho[1], error)[0][1].item())
    assert values == pytest.approx([c, c], abs=2e-4)
    assert slopes == pytest.approx([1, 1], abs=1e-4)
    assert reverse_huber(torch.tensor([5.0]))[0].item() == pytest.approx((25 + 9) / 6)
    assert reverse_huber(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"), [(5, 3, [0, 1, 3]), (3, 8, [0, 0, 0, 1, 1, 1, 2, 2]), (4, 4, [0, 1, 2, 3])]
)
def test_frames_of_the_same_share_of_the_span(there, wanted, chosen):
    maps = torch.arange(there).view(1, 1, there, 1, 1)
    assert at_frames(maps, wanted).flatten().tolist() == chosen


def test_the_threshold_of_the_reverse_huber_has_no_gradient():
    """At the largest error, 5, C is 3: the slope is 5 / 3. Were C's own gradient there, it would be 1.36 / 1.2."""
    error = torch.tensor([5.0, 1.0], requires_grad=True)
    assert torch.autograd.grad(reverse_huber(error).sum(), error)[0].tolist() == pytest.approx([5 / 3, 1])


def test_the_share_of_maps_without_a_direction_by_hand():
    maps = torch.zeros(1, 2, 2, 3, 3)
    maps[0, 1, 0, 2, 2] = -1  # one frame of one of two channels
    assert dead_share(maps, "spatiotemporal") == 1 / 2
    assert dead_share(maps, "per_frame") == 3 / 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_dead_channels_give_no_infinite_gradient(form, mode):
    student = torch.zeros(2, 3, 2, 4, 4, requires_grad=True)
    consistency_loss(student, torch.rand(2, 3, 2, 4, 4), form, **mode).backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
def test_maps_of_any_size_and_length(form, mode):
    student, teacher = torch.randn(2, 5, 4, 7, 7, requires_grad=True), torch.randn(2, 5, 2, 4, 4)
    loss = consistency_loss(student, teacher, form, **mode)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad.abs().sum() > 0


def test_a_step_moves_student_and_projection_and_not_the_teacher():
    overrides = ["teacher.weights=null", "methods=[{kind: feature_consistency}]"]
    run = config_file.load(REPOSITORY / "configs/motion_fmd.yaml", overrides)
    trainee, teacher, _ = distiller.build(run, num_classes=4)
    assert teacher is not None
    assert trainee.methods[0].project.bias is None
    project = trainee.methods[0].project.weight  # from 32 channels to 64
    before = [p.detach().clone() for p in (project, *trainee.student.parameters())]
    frames = run.data.clip.frames
    views = {who: torch.randint(0, 256, (2, 3, frames, px, px), dtype=torch.uint8)
             for who, px in (("student", 32), ("teacher", 48))}  # fmt: skip
    batch = ClipBatch(views, torch.tensor([0, 1]), ("a", "b"))
    optimizer = torch.optim.SGD(trainee.parameters(), 0.1)
    _, terms = trainee(batch, teacher(batch.seen_by("teacher")))
    terms["feature_consistency/consistency"].backward()
    optimizer.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert not torch.equal(project, before[0])
    assert any(not torch.equal(p, old) for p, old in zip(trainee.student.parameters(), before[1:], strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_the_clips_does_not_matter(form, mode):
    student, teacher = torch.randn(4, 5, 2, 3, 3), torch.randn(4, 5, 2, 6, 6)
    order = torch.tensor([2, 0, 3, 1])
    a, b = (consistency_loss(s, t, form, **mode) for s, t in ((student, teacher), (student[order], teacher[order])))
    torch.testing.assert_close(a, b)
