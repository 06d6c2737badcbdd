"""Networks that answer as one: the mean of their probabilities, or the official rule over their steps."""

import json

import numpy as np
import pytest
import torch

from small_run import KD, TAUGHT
from vidkd import cli, config_file, distiller, evaluate, export, score
from vidkd.errors import ConfigError, DataError
from vidkd.tasks import recognition
from vidkd.tasks._base import Scored
from vidkd.types import View

CLASSES = ("a", "b", "c", "d")


def task(**section):
    return recognition.Task(recognition.Config(kind="recognition", **section), CLASSES)


def kept(name, *shape, ids=("v1", "v2", "v3"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(*shape, generator=generator) * 3 for _ in ids]
    return Scored(list(ids), torch.tensor([0, 1, 2]), {name: rows})


def test_fused_steps_are_those_of_the_official_code():
    """Steps of both added, softmax over the classes, sum over the steps: written here again, one number at a time."""
    rgb, flow = (kept("step_logits", 2, 4, 7, 1, 1, seed=seed) for seed in (0, 1))
    found = task(fusion="step_probabilities").fused([rgb, flow]).kept["logits"]
    for i, joint in enumerate(found):
        assert joint.shape == (2, 4)
        for v in range(2):
            both = (rgb.kept["step_logits"][i][v] + flow.kept["step_logits"][i][v]).double().numpy()[:, :, 0, 0]
            official = np.zeros(4)
            for s in range(7):
                e = np.exp(both[:, s] - both[:, s].max())
                official += e / e.sum()
            assert joint[v].exp().tolist() == pytest.approx((official / 7).tolist(), abs=1e-6)
            assert int(joint[v].argmax()) == int(official.argmax())


def test_the_two_rules_can_disagree():
    """A stream that is sure at one step out of two: its step counts half by the official rule."""
    steps = torch.zeros(1, 4, 2, 1, 1)
    steps[0, 0, 0], steps[0, 1, 1] = 20.0, 6.0
    one = Scored(["v"], torch.tensor([0]), {"step_logits": [steps]})
    official = task(fusion="step_probabilities").fused([one]).kept["logits"][0].exp()[0]
    assert official.tolist() == pytest.approx([0.5 + 0.5 / (np.exp(6) + 3), 0.5 * np.exp(6) / (np.exp(6) + 3),
                                               *[0.5 / (np.exp(6) + 3)] * 2], abs=1e-6)  # fmt: skip
    averaged = steps.mean((2, 3, 4)).softmax(1)[0]
    assert averaged[0] > 0.99


def test_the_default_is_the_mean_of_probabilities_and_one_alone_is_itself():
    first, second = (kept("logits", 3, 4, seed=seed) for seed in (0, 1))
    joint = task().fused([first, second]).kept["logits"]
    for i in range(3):
        mean = (first.kept["logits"][i].softmax(1) + second.kept["logits"][i].softmax(1)) / 2
        torch.testing.assert_close(joint[i].exp(), mean)
    alone = task().fused([first]).kept["logits"]
    assert all(torch.equal(a, b) for a, b in zip(alone, first.kept["logits"], strict=True))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (kept("step_logits", 2, 4, 6, 1, 1), r"v1: the streams gave step_logits of \[2, 4, 7, 1, 1\] and \[2, 4, 6"),
        (kept("step_logits", 2, 4, 7, 1, 1, ids=("v1", "v4", "v3")), "streams of other videos .*'v2' is not in all"),
    ],
)
def test_what_cannot_be_joined(other, said):
    with pytest.raises(DataError, match=said):
        task(fusion="step_probabilities").fused([kept("step_logits", 2, 4, 7, 1, 1), other])


def test_a_network_without_steps():
    with pytest.raises(ConfigError, match=r"task.fusion: step_probabilities needs networks with the tap step_logits"):
        task(fusion="step_probabilities").undecided(View(torch.zeros(1, 4), {}), {})


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Two networks with nothing learned, which have steps."""
    folder = tmp_path_factory.mktemp("recognisers")
    words = [*TAUGHT, "teacher=null", "methods=[]", f"data.root={root}", "data.test_views.clips=2",
             "student.name=i3d_2d", "student.view.size_px=16", "task.weights={label: 1.0}"]  # fmt: skip
    for seed, name in enumerate(("one", "two")):
        run = config_file.load(KD, [*words, f"out={folder / name}"])
        torch.manual_seed(seed)
        network, _ = distiller.build_network(run.student, 4, run.data.clip.frames)
        export.save_student(folder / name, network, run, CLASSES, None)
    return folder


def told(*words):
    return cli.run_main(evaluate.main, [str(word) for word in words])


def test_evaluate_says_what_both_answer_together(runs, tmp_path, capsys):
    """The default gives what vidkd.score makes of the two predictions, the official rule another answer."""
    assert told(runs / "one", "--stream", runs / "two", "--out", tmp_path / "both") == 0
    assert "together: top-1" in capsys.readouterr().out
    both = json.loads((tmp_path / "both" / "results.json").read_text())
    for name in ("one", "two"):
        assert told(runs / name, "--out", tmp_path / name) == 0
    one, two = (tmp_path / name / "student_predictions.csv" for name in ("one", "two"))
    joined = score.score(one, "recognition", stream=[two], bootstrap=0)
    for key in ("top1", "top5", "confusion", "ece"):
        assert both["student"][key] == pytest.approx(joined[key], abs=1e-6) if key == "ece" else joined[key]
    words = (runs / "one", "task.fusion=step_probabilities", "--stream", runs / "two", "--out", tmp_path / "official")
    assert told(*words) == 0
    read = [(tmp_path / name / "student_predictions.csv").read_text() for name in ("both", "official")]
    assert read[0] != read[1]
    official = json.loads((tmp_path / "official" / "results.json").read_text())
    assert official["student"]["protocol"]["task"]["fusion"] == "step_probabilities"
