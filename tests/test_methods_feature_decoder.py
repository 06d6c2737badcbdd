"""FDD as a method of a run (../shared/methods/fmd.md, sections 3 and 8); its parts: test_methods_decoder.py."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from conftest import CONFIGS
from fdd_pair import gradient_of, made
from small_run import weights
from vidkd import config_file, distiller, models, train
from vidkd.errors import ConfigError
from vidkd.methods import feature_decoder as fdd
from vidkd.models import cost
from vidkd.models.cost import map_shape


def test_fewer_doublings_draw_a_smaller_picture():
    trainee, *_ = made("doublings: 1")
    net = trainee.methods[0].decoders["per_frame"]
    assert net(torch.randn(1, 16, 4, 16, 16), (4, 64, 64)).shape == (1, 3, 4, 32, 32)
    assert made()[0].methods[0].decoders["per_frame"].steps == [(1, 2, 2)] * 2


def test_a_width_holds_also_where_the_student_s_channels_could_be_shared_out():
    def drawn_from(*overrides):
        trainee, *_ = made("doublings: 1", *overrides)
        decoder = trainee.methods[0].decoders["per_frame"]
        return decoder.last.in_channels, isinstance(decoder.entry, torch.nn.Identity)

    assert drawn_from() == (4, True)  # of 16 channels, a quarter after one doubling
    assert drawn_from("width: 3") == (3, False)


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


@pytest.mark.parametrize("target", ["clip", "teacher_shallow"])
def test_the_loss_of_both_forms_by_hand(target):
    """The mean of the two; per frame the even ones of 8 frames; the target averaged over 2 x 2 places."""
    doublings = {"clip": 1, "teacher_shallow": 0}[target]
    trainee, teacher, batch = made("form: both", f"target: {target}", f"doublings: {doublings}", "distances: [l1]")
    seen, student = teacher(batch.seen_by("teacher")), trainee.student(batch.seen_by("student"))
    whole = seen.video
    if target == "teacher_shallow":
        maps = seen.taps["early"].transpose(0, 1)
        spread = (maps.flatten(1).var(1, correction=0) + 1e-5).sqrt()
        whole = (maps - maps.flatten(1).mean(1)[:, None, None, None, None]) / spread[:, None, None, None, None]
        whole = whole.transpose(0, 1)
    small = sum(whole[..., i::2, j::2] for i in range(2) for j in range(2)) / 4
    expected = []
    for form, wanted in (("per_frame", small[:, :, ::2]), ("spatiotemporal", small)):
        drawn = trainee.methods[0].decoders[form](student.taps["early"], (0, 0, 0))  # the size asked for is no matter
        expected.append((drawn - wanted).abs().mean())
    found = trainee.methods[0](batch, student, seen)["l1"]
    torch.testing.assert_close(found, (expected[0] + expected[1]) / 2)


def test_the_defaults_are_those_of_the_specification():
    """Section 4."""
    config = fdd.Config(kind="feature_decoder")
    assert (config.faithful, config.form, config.target, config.upsample) == (False, "per_frame", "clip", "subpixel")
    assert config.chosen() == ("gram", "l1")
    assert fdd.Config(kind="feature_decoder", faithful=True).chosen() == ("gram_batch",)
    assert {config.weight(term, 0) for term in fdd.DISTANCES} == {0.1}


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
        ("faithful: true, width: 6", "has the student's channels, or 6; set it to null"),
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


@pytest.mark.parametrize(
    ("section", "frames_picked", "pooled"),
    [
        ("form: both", True, False),  # the map has 4 of the 8 frames; 16 px are doubled to the 64
        ("form: spatiotemporal", False, False),
        ("form: spatiotemporal, doublings: 1", False, True),
    ],
)
def test_it_says_how_the_target_is_brought_to_the_drawing(section, frames_picked, pooled):
    (pair,) = made(section)[0].methods[0].compares()
    assert ("; of the target the frames of the same times" in pair.by) is frames_picked
    assert ("; the target pooled to it" in pair.by) is pooled


def test_a_teacher_of_optical_flow_is_drawn_in_its_two_channels():
    flow = "{width: 8, modality: flow}"
    trainee, teacher, batch = made("form: both", student="small_r3d", teacher="small_r3d", teacher_options=flow)
    seen = teacher(batch.seen_by("teacher")[:, :2])
    assert seen.video.shape[1] == 2
    terms = trainee.methods[0](batch, trainee.student(batch.seen_by("student")), seen)
    assert all(torch.isfinite(term) for term in terms.values())
    (pair,) = trainee.methods[0].compares()
    assert pair.teacher == "input 8x64x64x2" and pair.by.count("x2") == 2
    assert {net.last.out_channels for net in trainee.methods[0].decoders.values()} == {2}


def test_decoder_and_projection_learn_in_a_run_and_the_student_leaves_without_them(make):
    """Section 8.9 and trap 7.4, through the trainer: in optimiser and checkpoint, and not exported."""
    methods = "[{kind: feature_decoder, form: both}, {kind: feature_consistency, form: both}]"
    run = make("fmd", f"methods={methods}", "train.steps=2", "train.save_every={steps: 1}")
    outcome = train.train(run)
    first, second = (weights(run, step) for step in (1, 2))
    owned = [name for name in first if name.startswith("methods.")]
    assert {".".join(name.split(".")[:3]) for name in owned} == {"methods.0.decoders", "methods.1.project"}
    assert [name for name in owned if torch.equal(first[name], second[name])] == []
    student = load_file(run.out_dir / "student.safetensors")
    assert student.keys() == {n.removeprefix("student.net.") for n in second if n.startswith("student.net.")}
    alone = cost.gmacs(models.build("tiny4", 4), 4, 16)
    assert outcome["student"]["cost"]["gmacs"] == pytest.approx(alone)
