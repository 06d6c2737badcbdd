"""The official computation of generative attention distillation, written out again."""

import pytest
import torch
import torch.nn.functional as F

from conftest import REPOSITORY
from generative_pair import BATCH, made
from vidkd import config_file
from vidkd.methods import generative_attention as ga
from vidkd.models import attention
from vidkd.section import in_steps
from vidkd.tasks import recognition
from vidkd.types import View


@pytest.mark.parametrize(("epoch", "prior"), [(0, 0.0), (10, 0.25), (20, 0.5), (50, 0.5)])
def test_the_shipped_parity_weights_are_the_published_ones_at_every_epoch(epoch, prior):
    """One published epoch passes twice over the videos, once for the CVAE and once for the network: two of ours."""
    run = config_file.load(REPOSITORY / "configs" / "ucf101_generative_parity.yaml")
    section, step = in_steps(run, 7).methods[0], 2 * 7 * epoch
    assert section.turn.count() == 7
    expected = {"reconstruction": 1.0, "kl": 0.1, "generative": 0.01, "attention": 0.1, "prior": prior}
    assert {term: section.weight(term, step) for term in expected} == pytest.approx(expected)


class TestParity:
    """The official computation, written out again with the weights of the modules under test and fixed noise."""

    C, T, H = 32, 2, 4

    @pytest.fixture
    def inputs(self, monkeypatch):
        method, *_ = made(spatial="conv", noise="independent", target="attached")
        rng = torch.Generator().manual_seed(7)
        noises = [torch.randn(2, self.T, self.C, generator=rng) for _ in range(4)]
        drawn = iter([ga.Noise(*noises[:2]), ga.Noise(*noises[2:])])
        monkeypatch.setattr(ga, "draw", lambda _: next(drawn))
        f_s, f_t = torch.rand(2, 2, self.C, self.T, self.H, self.H, generator=rng)
        lam_s, lam_t = torch.rand(2, 2, self.C, self.T, generator=rng)
        views = [View(torch.zeros(2, 3), {"late": f, "attention": a}) for f, a in ((f_s, lam_s), (f_t, lam_t))]
        return method, views, noises

    def encode(self, state, f, lam):
        c = self.C
        x = F.relu(F.group_norm(F.conv3d(f, state["fold.0.weight"], state["fold.0.bias"]), 16,
                                state["fold.1.weight"], state["fold.1.bias"]))  # fmt: skip
        x = torch.cat([x[..., 0, 0], lam], dim=1).permute(0, 2, 1)
        for i in (0, 2, 4):
            x = F.linear(x, state[f"encoder.{i}.weight"], state[f"encoder.{i}.bias"])
            x = x if i == 4 else F.relu(x)
        return x[..., :c], x[..., c:]

    def decode(self, state, z, lam):
        x = torch.cat([z, lam.permute(0, 2, 1)], dim=2)
        for i in (0, 2, 4):
            x = F.linear(x, state[f"decoder.{i}.weight"], state[f"decoder.{i}.bias"])
            x = x if i == 4 else F.relu(x)
        x = F.conv_transpose3d(x.permute(0, 2, 1)[..., None, None], state["unfold.0.weight"], state["unfold.0.bias"])
        return F.relu(F.group_norm(x, 16, state["unfold.1.weight"], state["unfold.1.bias"]))

    def test_every_term(self, inputs):
        method, (student, teacher), (e_s, e_prior, e_t, _) = inputs
        terms = method(BATCH, student, teacher)
        own, guide = method.cvae.state_dict(), method.guide.module.state_dict()
        f, lam = student.taps["late"], student.taps["attention"]
        mean, log_var = self.encode(own, f, lam)
        drawn = self.decode(own, mean + e_s * torch.exp(log_var / 2), lam)
        mean_t, log_var_t = self.encode(guide, f, lam)
        drawn_t = self.decode(guide, mean_t + e_t * torch.exp(log_var_t / 2), lam)
        imagined = self.decode(own, lam.permute(0, 2, 1) + e_prior, lam)
        kl = -0.5 * (1 + log_var - (mean - lam.permute(0, 2, 1)) ** 2 - torch.exp(log_var)).mean()
        expected = {
            "reconstruction": ((f - drawn) ** 2).mean(),
            "kl": kl,
            "prior": ((imagined - f) ** 2).mean(),
            "attention": ((lam - teacher.taps["attention"]) ** 2).mean(),
            "generative": ((drawn - drawn_t) ** 2).mean(),
        }
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, msg=lambda m, n=name: f"{n}: {m}")

    def test_the_head(self):
        torch.manual_seed(3)
        head = attention.ParityHead((self.C, self.T, self.H, self.H))
        state, f = head.state_dict(), torch.rand(2, self.C, self.T, self.H, self.H)
        x = F.conv3d(f, state["squeeze.0.weight"], state["squeeze.0.bias"])
        x = F.relu(F.group_norm(x, 32, state["squeeze.1.weight"], state["squeeze.1.bias"]))[..., 0, 0]
        x = x[:, :, [i * self.T // self.C for i in range(self.C)]]  # nearest: T samples become C
        x = F.conv1d(x, state["excite.0.weight"], state["excite.0.bias"], padding=1)
        x = F.relu(F.group_norm(x, 16, state["excite.1.weight"], state["excite.1.bias"]))
        lam = torch.sigmoid(x @ state["shrink.weight"].T + state["shrink.bias"])
        torch.testing.assert_close(head(f), lam)

    def test_the_published_width_has_32_groups(self):
        assert attention.group_norm(512).num_groups == attention.group_norm(1024).num_groups == 32

    def test_the_label_loss(self):
        logits, label = torch.randn(2, 5, 7, 1, 1), torch.tensor([1, 3])
        p = sum(torch.softmax(logits[:, :, t, 0, 0], dim=1) for t in range(7))
        expected = -torch.log(torch.exp(p) / torch.exp(p).sum(1, keepdim=True))[[0, 1], label].mean()
        torch.testing.assert_close(F.cross_entropy(recognition.step_probabilities(logits), label), expected)
