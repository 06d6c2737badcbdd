"""Generative attention distillation: counts, losses by hand, and who learns from what."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from generative_pair import BATCH, made, network
from vidkd import models
from vidkd.errors import ConfigError
from vidkd.methods import generative_attention as ga
from vidkd.methods._cvae import CVAE, gaussian_kl
from vidkd.models import cost
from vidkd.tasks import recognition
from vidkd.types import ClipBatch, View


def learners(term, **modules):
    """The parameters, `<module>.<name>`, to which the term gives a gradient other than zero."""
    named = {f"{who}.{n}": p for who, module in modules.items() for n, p in module.named_parameters()}
    gradients = torch.autograd.grad(term, list(named.values()), retain_graph=True, allow_unused=True)
    return {n for n, g in zip(named, gradients, strict=True) if g is not None and g.abs().max() > 0}


class TestCVAE:
    def test_counts(self):
        with torch.device("meta"):
            conv, pool = CVAE(1024, "conv", (7, 7)), CVAE(1024, "pool", (7, 7))
            assert cost.parameters(conv.fold) + cost.parameters(conv.encoder) == 56_630_272
            assert cost.parameters(conv.unfold) + cost.parameters(conv.decoder) == 55_580_672
            assert cost.parameters(conv) == 112_210_944
            assert cost.parameters(pool) == 9_444_352
            lam = torch.rand(1, 1024, 8)
            with FlopCounterMode(display=False) as counter:
                conv.posterior(torch.rand(1, 1024, 8, 7, 7), lam, lam.transpose(1, 2))
        assert counter.get_total_flops() / 2e9 == pytest.approx(0.90, abs=0.01)

    @pytest.mark.parametrize("frames", [4, 8, 32])
    @pytest.mark.parametrize("side", [3, 7])
    def test_pool_takes_any_clip(self, frames, side):
        cvae, lam = CVAE(16, "pool", (1, 1)), torch.rand(2, 16, frames)
        content = cvae.content(torch.rand(2, 16, frames, side, side))
        drawn, mean, log_var = cvae.posterior(content, lam, torch.randn(2, frames, 16))
        assert drawn.shape == content.shape == (2, 16, frames)
        assert mean.shape == log_var.shape == (2, frames, 16)

    def test_conv_takes_one_size(self):
        with pytest.raises(ValueError, match=r"for maps of \(3, 3\) met \(7, 7\)"):
            CVAE(16, "conv", (3, 3)).content(torch.rand(1, 16, 2, 7, 7))

    def test_a_time_step_is_drawn_from_its_own_latent(self):
        cvae, lam, z = CVAE(8, "pool", (1, 1)), torch.rand(1, 8, 4), torch.randn(1, 4, 8)
        other = z.clone()
        other[:, 2] += 1
        changed = (cvae.decode(z, lam) != cvae.decode(other, lam)).any(dim=1)[0]
        assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("offset", "variance", "expected"), [(0.0, 1.0, 0.0), (1.0, 1.0, 0.5), (0.0, 4.0, 0.8069), (0.4, 4.0, 0.8869)]
)
def test_kl_by_hand_and_by_monte_carlo(offset, variance, expected):
    lam, log_var = torch.full((2, 3, 4), 0.3), torch.full((2, 3, 4), math.log(variance))
    assert float(gaussian_kl(lam + offset, log_var, lam)) == pytest.approx(expected, abs=1e-4)
    assert float(gaussian_kl(lam - offset, log_var, lam)) == pytest.approx(expected, abs=1e-4)
    torch.manual_seed(0)
    q, p = torch.distributions.Normal(offset, math.sqrt(variance)), torch.distributions.Normal(0.0, 1.0)
    z = q.sample((1_000_000,)).double()
    ratio = q.log_prob(z) - p.log_prob(z)
    assert abs(float(ratio.mean()) - expected) <= 4 * float(ratio.std()) / 1000 + 1e-4


def test_kl_between_two_posteriors():
    torch.manual_seed(0)
    m1, v1, m2, v2 = torch.randn(4, 2, 3, 5)
    q, p = torch.distributions.Normal(m1, (v1 / 2).exp()), torch.distributions.Normal(m2, (v2 / 2).exp())
    torch.testing.assert_close(gaussian_kl(m1, v1, m2, v2), torch.distributions.kl_divergence(q, p).mean())


@pytest.mark.parametrize(("classes", "floor"), [(101, 0.0873), (51, 0.0446)])
def test_double_softmax_has_a_floor(classes, floor):
    logits = torch.zeros(1, classes, 7, 1, 1)
    logits[:, 4] = 20.0
    view, batch = View(logits.mean((2, 3, 4)), {"step_logits": logits}), ClipBatch({}, torch.tensor([4]), ("a",))

    def loss(how):
        task = recognition.Task(recognition.Config(kind="recognition", loss=how), tuple(map(str, range(classes))))
        return float(task.losses(batch, view)["label"])

    assert loss("step_probabilities") == pytest.approx(floor, abs=1e-4)
    assert loss("mean_logit") < 1e-6
    probability = recognition.step_probabilities(logits).softmax(1)[0, 4]
    if classes == 101:
        assert float(probability) == pytest.approx(0.916, abs=1e-3)


def test_double_softmax_needs_the_logits_of_steps():
    task = recognition.Task(recognition.Config(kind="recognition", loss="step_probabilities"), ("a", "b"))
    with pytest.raises(ConfigError, match=r"needs a network with the tap step_logits, .*; tiny4 has none: task\.loss="):
        task.asks(models.build("tiny4", 2))
    task.asks(models.build("i3d_2d", 2))


class TestWhoLearns:
    """Gradient routing, which is also what keeps the two stages of the published loop apart in one step."""

    def routes(self, **options):
        method, own, student, teacher = made(**options)
        terms = method(BATCH, student, teacher)
        return {n: {x.split(".")[1] for x in learners(t, s=own, m=method)} for n, t in terms.items()}

    def test_without_a_teacher(self):
        routes = self.routes(teacher=None)
        assert routes["reconstruction"] == routes["kl"] == {"cvae"}
        assert routes["prior"] == {"net"}
        assert list(routes) == ["reconstruction", "kl", "prior"]

    @pytest.mark.parametrize("spatial", ["pool", "conv"])
    @pytest.mark.parametrize(
        ("generative", "trains"),
        [("release", "cvae"), ("teacher_features", "net"), ("mixed", "net"), ("posterior_kl", "net")],
    )
    def test_t6_with_a_teacher(self, generative, trains, spatial):
        """In `release` the network gets nothing from the generative term: it feels it through `prior`."""
        routes = self.routes(generative=generative, spatial=spatial)
        assert routes["reconstruction"] == routes["kl"] == {"cvae"}
        assert routes["prior"] == routes["attention"] == {"net"}
        assert routes["generative"] == {trains}

    def test_none_has_no_generative_term(self):
        assert list(self.routes(generative="none")) == ["reconstruction", "kl", "prior", "attention"]

    def test_prior_moves_the_backbone_through_its_target_only_where_it_is_attached(self):
        for target, whole in (("detached", False), ("attached", True)):
            method, _, student, teacher = made(target=target)
            term = method(BATCH, student, teacher)["prior"]
            late = torch.autograd.grad(term, student.taps["late"], retain_graph=True)[0]
            lam = torch.autograd.grad(term, student.taps["attention"], retain_graph=True)[0]
            through_lam = torch.autograd.grad(student.taps["attention"], student.taps["late"], lam)[0]
            assert torch.allclose(late, through_lam, atol=1e-7) is not whole

    @pytest.mark.parametrize(("student", "teacher"), [("tiny4", "tiny16"), ("tiny16", "tiny4")])
    def test_other_channels_are_a_regression_that_tells_the_student_nothing(self, student, teacher):
        method, own, seen, teachers = made(student, teacher)
        terms = method(BATCH, seen, teachers)
        assert learners(terms["channels"], m=method, s=own) == {"m.match.maps.weight", "m.match.maps.bias"}
        both = {x.split(".")[1] for x in learners(terms["attention"], m=method, s=own)}
        assert both == {"net", "match"}
        for name, term in terms.items():
            if name != "channels":
                assert not [x for x in learners(term, m=method) if "match.maps" in x], name
        assert method.teacher_taps() == ["attention", "late"]

    def test_the_teacher_and_its_cvae_are_constants(self):
        method, _, student, teacher = made(generative="mixed")
        before = [p.clone() for p in method.guide.module.parameters()]
        terms = method(BATCH, student, teacher)
        sum(terms.values()).backward()
        assert all(p.grad is None for m in (method.guide.module, method.head.module) for p in m.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, method.guide.module.parameters(), strict=True))

    def test_t10_no_output_of_a_teacher_requires_grad(self):
        *_, teacher = made()
        assert not any(t.requires_grad for t in (teacher.logits, *teacher.taps.values()))


class TestBorrowed:
    def test_it_is_in_no_optimiser_and_no_checkpoint_and_never_trains(self):
        method, *_ = made(generative="mixed")
        method.train()
        assert {n.split(".")[0] for n, _ in method.named_parameters()} == {"cvae"}
        assert {n.split(".")[0] for n in method.state_dict()} == {"cvae"}
        assert not any(m.training for m in method.guide.module.modules())

    def test_it_moves_with_its_owner(self):
        method, *_ = made()
        method.double()
        assert {p.dtype for p in method.guide.module.parameters()} == {torch.float64}

    def test_t11_nothing_is_built_that_is_not_used(self):
        pool = 9 * 32 * 32 + 7 * 32
        alone, none, full = made(teacher=None)[0], made(generative="none")[0], made()[0]
        assert cost.parameters(alone) == cost.parameters(none) == cost.parameters(full) == pool
        assert alone.guide is None and none.guide is None and full.head is None
        assert cost.parameters(full.guide.module) == pool


@pytest.mark.parametrize(("noise", "zero"), [("shared", True), ("independent", False)])
def test_t5_equal_cvaes_agree_exactly_under_shared_noise(noise, zero):
    method, _, student, teacher = made(noise=noise)
    method.take_kept(method.cvae.state_dict())
    assert (method(BATCH, student, teacher)["generative"].item() == 0) is zero


@pytest.mark.parametrize("generative", ["release", "teacher_features", "mixed", "posterior_kl"])
def test_clips_of_another_length_and_size_are_brought_to_the_teachers(generative):
    for spatial in ("pool", "conv"):
        method, own, _, teacher = made(generative=generative, spatial=spatial)
        smaller = own(torch.rand(2, 3, 8, 24, 24))
        terms = method(BATCH, smaller, teacher)
        assert all(torch.isfinite(t) for t in terms.values())


class TestGenerativeTerms:
    """What each form compares, with the modules under test and noise that is known."""

    @pytest.fixture
    def given(self, monkeypatch):
        def given(form):
            method, _, student, teacher = made(generative=form)
            noise = ga.Noise(*torch.randn(2, 2, 2, 32))
            monkeypatch.setattr(ga, "draw", lambda _: noise)
            return method, student, teacher, noise

        return given

    def test_teacher_features(self, given):
        method, student, teacher, noise = given("teacher_features")
        own = method.cvae.prior(student.taps["attention"], noise.prior)
        theirs = method.guide.module.prior(teacher.taps["attention"], noise.prior)
        found = method(BATCH, student, teacher)["generative"]
        torch.testing.assert_close(found, (own - theirs).square().mean())

    def test_mixed(self, given):
        method, student, teacher, noise = given("mixed")
        maps = student.taps["late"]
        own = method.cvae.posterior(maps.mean((3, 4)), student.taps["attention"], noise.posterior)[0]
        theirs = method.head.module(maps)
        drawn = method.guide.module.posterior(maps.mean((3, 4)), theirs, noise.posterior)[0]
        found = method(BATCH, student, teacher)["generative"]
        torch.testing.assert_close(found, (own - drawn).square().mean())

    def test_posterior_kl(self, given):
        method, student, teacher, _ = given("posterior_kl")
        # Far from the student's, or either direction would have the same divergence
        far = {name: 50 * tap for name, tap in teacher.taps.items()}
        teacher = replace(teacher, taps=far)
        code = {
            who: method.guide.module.encode(view.taps["late"].mean((3, 4)), view.taps["attention"])
            for who, view in (("student", student), ("teacher", teacher))
        }
        q, p = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in (code["teacher"], code["student"]))
        found = method(BATCH, student, teacher)["generative"]
        torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p).mean())
        assert not torch.isclose(found, torch.distributions.kl_divergence(p, q).mean(), rtol=0.01)


@pytest.mark.parametrize(
    ("form", "weight"), [("release", 0.01), ("teacher_features", 0.1), ("mixed", 1.0), ("posterior_kl", 0.1)]
)
def test_the_weight_of_each_generative_term(form, weight):
    """Section 4: beta, 1 and, published, 0.01; posterior_kl is ours."""
    assert ga.Config(kind="generative_attention", generative=form).weight("generative", 0) == weight


def test_a_network_without_attention_is_a_mistake():
    bare = models.build("tiny4", 3)
    with pytest.raises(ConfigError, match=r"tiny4 carries no attention; add student.attention: \{head: gap\}"):
        ga.Method(ga.Config(kind="generative_attention"), bare, network(), 3)
    with pytest.raises(ConfigError, match=r"add teacher.attention"):
        ga.Method(ga.Config(kind="generative_attention"), network(), bare, 3)
    elsewhere = (
        r"tiny16 carries no attention in its tap 'late'; add teacher.attention: \{head: gap, taps: \[early, late\]\}"
    )
    with pytest.raises(ConfigError, match=elsewhere):
        ga.Method(ga.Config(kind="generative_attention"), network(), network(taps=("early",)), 3)


def test_turns():
    config = ga.Config.model_validate({"kind": "generative_attention", "turn": {"steps": 3}})
    method = ga.Method(config, network(), None, 3)
    turns = [method.learns("methods.0.cvae.encoder.0.weight", step) for step in range(8)]
    assert turns == [True, True, True, False, False, False, True, True]
    for name in ("student.net.early.0.weight", "methods.1.cvae_of_another.weight"):
        assert [method.learns(name, step) for step in range(8)] == [not t for t in turns]
    at_once = ga.Method(ga.Config(kind="generative_attention"), network(), None, 3)
    assert at_once.learns("student.net.early.0.weight", 0) and at_once.learns("methods.0.cvae.encoder.0.weight", 0)


def test_weights_are_those_of_the_specification():
    config = ga.Config.model_validate({"kind": "generative_attention", "weights": {"attention": 1.0}})
    assert [config.weight(t, 0) for t in ("reconstruction", "kl", "generative", "attention")] == [1.0, 0.1, 0.01, 1.0]
    ramp = config.weights["prior"]
    assert (ramp.start, ramp.to, ramp.epochs) == (0.0, 0.5, 20)
