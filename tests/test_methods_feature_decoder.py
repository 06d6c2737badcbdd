"""FDD: the decoder's shapes and the distances (../shared/methods/fmd.md, sections 2, 3.1 to 3.3 and 8)."""

import pytest
import torch
from torch.nn import functional as F

from conftest import CONFIGS
from fmd_reference import Reference
from vidkd import config_file, distiller, models
from vidkd.data.decode import open_video
from vidkd.errors import ConfigError
from vidkd.methods import feature_decoder as fdd
from vidkd.models import cost
from vidkd.models.cost import map_shape
from vidkd.types import ClipBatch

SMALL = ("student.options={}", "teacher.options={}", "teacher.weights=null", "student.weights=null",
         "student.adapt=none", "student.reset_head=false", "teacher.adapt=none", "teacher.reset_head=false",
         "teacher.cache=null")  # fmt: skip


def decoder(steps=((1, 2, 2), (1, 2, 2)), k_t=1, upsample="subpixel", faithful=True, channels=96, out=3):
    return fdd.Decoder(channels, 6, out, list(steps), k_t, upsample, faithful)


def made(
    *overrides, student="small_r3d", teacher="medium_r3d", student_px=32, teacher_px=64, frames=8, student_frames=4
):
    """A built run with feature_decoder alone, and one batch of two clips."""
    path = next(p for p in CONFIGS if p.stem == "motion_fmd")
    words = [*SMALL, f"student.name={student}", f"teacher.name={teacher}", f"student.view.size_px={student_px}",
             f"teacher.view.size_px={teacher_px}", f"data.clip.frames={frames}",
             f"student.view.frames={student_frames}"]  # fmt: skip
    section = "{kind: feature_decoder, " + ", ".join(overrides) + "}"
    run = config_file.load(path, [*words, f"methods=[{section}]"])
    torch.manual_seed(0)
    trainee, frozen, _ = distiller.build(run, 4)
    coarse = torch.randint(0, 256, (2, 3, frames, 6, 6)).float()  # smooth pictures, as of a video, not noise
    clip = F.interpolate(coarse, (frames, teacher_px, teacher_px), mode="trilinear")
    small = F.adaptive_avg_pool3d(clip, (student_frames, student_px, student_px))
    views = {"student": small.to(torch.uint8), "teacher": clip.to(torch.uint8)}
    return trainee, frozen, ClipBatch(views, torch.tensor([0, 1]), ("a", "b"))


def test_the_released_decoder_to_the_parameter():
    net = decoder()
    assert sum(p.numel() for p in net.parameters()) == 94_611
    out = net(torch.randn(2, 96, 1, 22, 22), (1, 92, 92))
    assert out.shape == (2, 3, 1, 92, 92)
    assert out.min() >= 0


@pytest.mark.parametrize(("residuals", "parameters"), [(0, 1_388_807), (4, 9_235_079), (8, 17_081_351)])
def test_the_published_networks_to_the_parameter(residuals, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in Reference(residuals).parameters()) == parameters


def test_the_published_maps_have_the_published_sizes_and_the_decoder_hardly_moves_their_student():
    """Section 3.3, on the original networks: 0.1 FDD against 0.2 of the label loss, at the start, in the gradient."""
    torch.manual_seed(0)
    student, net = Reference(0), decoder()
    picture = F.interpolate(torch.randn(2, 3, 6, 6), (92, 92), mode="bilinear")
    shallow, deep, logits = student(F.interpolate(picture, (44, 44), mode="bilinear"))
    assert (shallow.shape[1:], deep.shape[1:]) == ((96, 22, 22), (160, 11, 11))
    assert min(shallow.min(), deep.min()) < 0
    with torch.no_grad():
        large = student(picture)
    assert (large[0].shape[1:], large[1].shape[1:]) == ((96, 46, 46), (160, 23, 23))
    decoded = net(shallow[:, :, None], (1, 92, 92))
    fdd_pull = gradient_of(0.1 * fdd.gram_batch_distance(decoded, picture[:, :, None], True), student)
    assert fdd_pull < 1e-3 * gradient_of(0.2 * F.cross_entropy(logits, torch.tensor([0, 1])), student)


def test_the_effective_decoder_is_linear_at_its_end():
    net = decoder(faithful=False)
    out = net(torch.randn(2, 96, 1, 22, 22), (1, 92, 92))
    assert out.shape == (2, 3, 1, 88, 88)  # no resize: the target comes to the decoder
    assert out.min() < 0
    he = (2 / (6 * 9)) ** 0.5
    assert net.residual.weight.std().item() == pytest.approx(he, rel=0.25)
    assert net.last.weight.std().item() == pytest.approx(0.1 * he, rel=0.35)
    assert not net.last.bias.any()


@pytest.mark.parametrize("upsample", ["subpixel", "interp"])
def test_over_time_the_volume_is_stretched_too(upsample):
    net = decoder([(2, 2, 2), (1, 2, 2), (2, 1, 1)], 3, upsample, faithful=False, channels=32)
    assert net(torch.randn(1, 32, 2, 5, 5), (8, 20, 20)).shape == (1, 3, 8, 20, 20)
    assert net.entry.out_channels == 6 * 64  # 32 does not divide into 64 parts


def test_subpixel_without_time_is_pixel_shuffle_on_frames():
    x = torch.randn(2, 24, 3, 5, 7)
    by_frame = F.pixel_shuffle(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (2, 3)).transpose(1, 2)
    assert torch.equal(fdd.subpixel(x, (1, 2, 2)), by_frame)


def test_subpixel_in_time_by_index():
    x = torch.arange(2 * 8 * 3.0).view(1, 16, 3, 1, 1)
    out = fdd.subpixel(x, (2, 2, 2))
    for c in range(2):
        for p in range(2):
            for q in range(2):
                for r in range(2):
                    assert torch.equal(out[0, c, p::2, q, r], x[0, ((c * 2 + p) * 2 + q) * 2 + r, :, 0, 0])


def test_gram_matrices_have_the_size_they_should():
    a = torch.randn(2, 3, 4, 5, 6)
    assert fdd.gram(a.flatten(2)).shape == (2, 3, 3)
    assert fdd.gram(a.view(1, 6, -1)).shape == (1, 6, 6)
    assert torch.allclose(fdd.gram(torch.full((1, 2, 10), 3.0)), torch.full((1, 2, 2), 9.0))


def test_the_released_distance_against_loops():
    a, b = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    rows = [(x.transpose(1, 2).reshape(12, 16), x.reshape(6, 32)) for x in (a, b)]
    for k, per_frame in enumerate((True, False)):
        m, n = rows[0][k], rows[1][k]
        expected = (
            sum(
                (m[i] @ m[j] / m.shape[1] - n[i] @ n[j] / m.shape[1]) ** 2 for i in range(len(m)) for j in range(len(m))
            )
            / len(m) ** 2
        )
        torch.testing.assert_close(fdd.gram_batch_distance(a, b, per_frame), expected)


@pytest.mark.parametrize("per_frame", [True, False])
def test_the_released_distance_alone_depends_on_who_else_is_in_the_batch(per_frame):
    """Section 7.3: in two halves, as by accumulation or on two processes, it is another loss."""
    a, b = torch.randn(4, 3, 2, 4, 4), torch.randn(4, 3, 2, 4, 4)
    for name, loss in fdd.DISTANCES.items():
        whole = loss(a, b, per_frame)
        halves = (loss(a[:2], b[:2], per_frame) + loss(a[2:], b[2:], per_frame)) / 2
        assert torch.isclose(whole, halves) == (name != "gram_batch")


@pytest.mark.parametrize("distance", sorted(fdd.DISTANCES))
@pytest.mark.parametrize("per_frame", [True, False])
def test_distances_know_no_order_of_clips_and_are_zero_for_the_same(distance, per_frame):
    a, b, order = torch.randn(3, 3, 2, 4, 4), torch.randn(3, 3, 2, 4, 4), torch.tensor([2, 0, 1])
    loss = fdd.DISTANCES[distance]
    torch.testing.assert_close(loss(a, b, per_frame), loss(a[order], b[order], per_frame))
    assert loss(a, a, per_frame) == 0


def test_over_one_frame_the_two_forms_are_one():
    a, b = torch.randn(3, 3, 1, 4, 4), torch.randn(3, 3, 1, 4, 4)
    for loss in fdd.DISTANCES.values():
        torch.testing.assert_close(loss(a, b, True), loss(a, b, False))


def test_fewer_doublings_draw_a_smaller_picture():
    trainee, *_ = made("doublings: 1")
    net = trainee.methods[0].decoders["per_frame"]
    assert net(torch.randn(1, 16, 4, 16, 16), (4, 64, 64)).shape == (1, 3, 4, 32, 32)
    assert made()[0].methods[0].decoders["per_frame"].steps == [(1, 2, 2)] * 2


@pytest.mark.parametrize("form", ["per_frame", "spatiotemporal", "both"])
@pytest.mark.parametrize("target", ["clip", "teacher_shallow"])
@pytest.mark.parametrize("faithful", ["true", "false"])
@pytest.mark.parametrize("upsample", ["subpixel", "interp"])
def test_every_form_trains_decoder_and_student(form, target, faithful, upsample):
    trainee, teacher, batch = made(
        f"form: {form}", f"target: {target}", f"faithful: {faithful}", f"upsample: {upsample}"
    )
    _, terms = trainee(batch, teacher(batch.seen_by("teacher")))
    assert list(terms) == ["feature_decoder/gram_batch" if faithful == "true" else "feature_decoder/gram",
                           "feature_decoder/l1"][: 1 + (faithful == "false")]  # fmt: skip
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in trainee.methods.parameters())
    stem = trainee.student.net.stem[0].weight.grad
    assert stem.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "student_px", "teacher_px"),
    [("small_r3d", "mvit_v2_s", 56, 224), ("mvit_v1_b", "r3d_18", 224, 112), ("r2plus1d_18", "swin3d_t", 32, 64)],
)
@pytest.mark.parametrize("target", ["clip", "teacher_shallow"])
def test_the_decoder_fits_any_pair_of_the_zoo(student, teacher, student_px, teacher_px, target):
    """On the meta device: shapes alone."""
    frames = 16
    with torch.device("meta"):
        trainee, *_ = made(f"target: {target}", student=student, teacher=teacher, student_px=student_px,
                           teacher_px=teacher_px, frames=frames, student_frames=frames)  # fmt: skip
    net = trainee.methods[0].decoders["per_frame"]
    c, t, h, w = map_shape(trainee.student, "early")
    decoded = net.to("meta")(torch.empty(1, c, t, h, w, device="meta"), (t, teacher_px, teacher_px))
    assert decoded.shape[3] <= max(teacher_px, h)
    assert 2 * decoded.shape[3] > (teacher_px if target == "clip" else decoded.shape[3])


def gradient_of(term, student):
    grads = torch.autograd.grad(term, [p for p in student.parameters()], retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None]).norm()


def test_as_published_it_hardly_moves_the_student_and_by_default_it_does():
    """Section 3.3: 0.1 FDD against 0.2 of the label loss, at the start, in the student's gradient."""
    shares = {}
    for faithful in ("true", "false"):
        trainee, teacher, batch = made(f"faithful: {faithful}")
        student, terms = trainee(batch, teacher(batch.seen_by("teacher")))
        label = gradient_of(0.2 * F.cross_entropy(student.logits, batch.label), trainee.student)
        shares[faithful] = gradient_of(0.1 * sum(terms.values()), trainee.student) / label
    assert shares["true"] < 1e-3
    assert shares["false"] > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_distances_are_those_of_float32(dtype):
    trainee, teacher, batch = made("distances: [gram, l1, gram_batch]")
    seen = teacher(batch.seen_by("teacher"))
    with torch.autocast("cpu", dtype=dtype):
        student = trainee.student(batch.seen_by("student"))
        terms = trainee.methods[0](batch, student, seen)
        net = trainee.methods[0].decoders["per_frame"]
        decoded = net(student.taps["early"], (4, 64, 64)).float()
    target = fdd._resized(fdd.at_frames(seen.video, 4), tuple(decoded.shape[2:]))
    for name, loss in fdd.DISTANCES.items():
        torch.testing.assert_close(terms[name], loss(decoded, target, True), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["per_frame", "spatiotemporal"])
def test_the_default_decoder_learns_to_draw_what_the_teacher_saw(shared, form):
    """Section 8.11, on real clips: alone, 100 steps of 4; held-out L1 under 0.8 of an all-zero picture's."""
    paths = sorted((shared / "data" / "jhmdb21").rglob("*.mp4"))[::6]
    if not paths:
        pytest.skip(f"no jhmdb21 in {shared}/data")
    clips = torch.stack([first_frames(path) for path in paths])
    torch.manual_seed(0)
    student, normalise = models.build("small_r3d", 21), models.build("i3d", 21).normalise
    net = decoder(k_t=1 if form == "per_frame" else 3, faithful=False, channels=16)
    parameters = [*student.parameters(), *net.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def decoded(batch):
        return net(student(F.adaptive_avg_pool3d(batch, (8, 56, 56))).taps["early"], (8, 112, 112)), normalise(batch)

    for _ in range(100):
        out, target = decoded(clips[torch.randint(len(clips) * 4 // 5, (4,))])
        per_frame = form == "per_frame"
        loss = 0.1 * (fdd.gram_distance(out, target, per_frame) + fdd.l1_distance(out, target, per_frame))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_([p for p in parameters if p.grad is not None], 0.1)
        optimizer.step()
    student.eval()
    with torch.no_grad():
        out, target = decoded(clips[len(clips) * 4 // 5 :])
    assert fdd.l1_distance(out, target, True) < 0.8 * target.abs().mean()


def first_frames(path):
    """Eight frames, 112 px, in 0..1: [3, 8, 112, 112]."""
    with open_video(path) as video:
        frames = video.get(list(range(0, 15, 2))).float() / 255
    side = min(frames.shape[2:])
    return F.interpolate(frames[..., :side, :side], (112, 112), mode="bilinear", antialias=True).transpose(0, 1)


@pytest.mark.parametrize("path", [p for p in CONFIGS if "fmd" in p.stem], ids=lambda p: p.stem)
def test_shipped_decoders_cost_less_in_training_than_their_teacher(path):
    """By the specification's widths a volume decoder of eight times the side and four times the frames has 66 M
    parameters and takes nine times the work of I3D."""
    run = config_file.load(path)
    words = ["teacher.weights=null", "teacher.cache=null", "student.weights=null", "student.adapt=none"]
    if run.optim.lr_scale:
        words.append("optim.lr_scale={}")
    run = config_file.load(path, words)
    with torch.device("meta"):
        trainee, teacher, _ = distiller.build(run, 8)
    assert teacher is not None
    found = 0
    for method in trainee.each_method():
        if not isinstance(method, fdd.Method):
            continue
        (c, *grid), (_, *wanted) = method.shapes
        seen = torch.empty(1, c, *grid, device="meta")
        gmacs = [
            cost.gmacs_of(net.to("meta"), seen, ((grid[0] if form == "per_frame" else wanted[0]), *wanted[1:]))
            for form, net in method.decoders.items()
        ]
        found += 1
        assert sum(gmacs) < cost.gmacs(teacher.tapped, *teacher.tapped.clip)
    assert found == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("distances: []", "name at least one"),
        ("distances: [l1, l1]", "each once"),
        ("student_tap: erly", "no tap 'erly'; did you mean 'early'"),
        ("target: teacher_shallow, teacher_tap: step_logit", "no tap 'step_logit'"),
        ("width: 2", "greater than or equal to 3"),
        ("faithful: true, doublings: 1", "goes up to the target's size"),
    ],
)
def test_mistakes_are_named(section, message):
    with pytest.raises(ConfigError, match=message):
        made(section, teacher="i3d", teacher_px=64)


def test_the_view_is_asked_for_only_with_target_clip():
    assert made("target: clip")[0].methods[0].needs_input
    method = made("target: teacher_shallow")[0].methods[0]
    assert not method.needs_input
    assert method.teacher_taps() == ["early"]


@pytest.mark.parametrize("faithful", [True, False])
def test_it_says_the_size_it_draws(faithful):
    trainee, teacher, batch = made(f"form: both, faithful: {str(faithful).lower()}")
    method, student = trainee.methods[0], trainee.student(batch.seen_by("student"))
    video = teacher(batch.seen_by("teacher")).video
    (pair,) = method.compares()
    for form, net in method.decoders.items():
        wanted = fdd.at_frames(video, student.taps["early"].shape[2]) if form == "per_frame" else video
        c, t, h, w = net(student.taps["early"], fdd._grid(wanted)).shape[1:]
        assert f"{form}, drawing {t}x{h}x{w}x{c}" in pair.by
