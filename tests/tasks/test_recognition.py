"""Recognition: its loss against torch, its averages by hand, and the figures again from the predictions file."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from vidkd import metrics, predictions_file, results, score
from vidkd.errors import ConfigError, DataError
from vidkd.tasks import recognition
from vidkd.tasks._base import Scored
from vidkd.types import ClipBatch, View

AWKWARD = ("001", 'say "hi", please', "nan", "NULL", "a | b", "été 🎬", "2.50")


def task_of(classes="abc", **options):
    return recognition.Task(recognition.Config(kind="recognition", **options), tuple(classes))


def scored(logits, label):
    label = torch.as_tensor(label)
    return Scored([f"v/{i:03d}" for i in range(len(label))], label, {"logits": torch.as_tensor(logits).float()})


def random_scored(n=30, views=3, k=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return scored(torch.randn(n, views, k, generator=rng) * 3, torch.randint(k, (n,), generator=rng))


def batch_of(label, target=None):
    views = {"student": torch.zeros(len(label), 3, 1, 1, 1)}
    return ClipBatch(views, torch.tensor(label), tuple(map(str, range(len(label)))), target)


@pytest.fixture
def logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(5))


class TestLoss:
    def test_hard_labels(self, logits):
        loss = task_of().losses(batch_of([0, 1, 2, 1]), View(logits, {}))["label"]
        assert torch.allclose(loss, -logits.log_softmax(1)[torch.arange(4), [0, 1, 2, 1]].mean())

    def test_soft_labels_win_over_hard_ones(self, logits):
        target = torch.tensor([[0.25, 0.75, 0], [1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]])
        loss = task_of().losses(batch_of([0, 0, 0, 0], target), View(logits, {}))["label"]
        assert torch.allclose(loss, -(target * logits.log_softmax(1)).sum(1).mean())

    @pytest.mark.parametrize("soft", [False, True])
    def test_smoothing_mixes_in_the_uniform_distribution(self, logits, soft):
        target = F.one_hot(torch.tensor([0, 1, 2, 1]), 3).float()
        batch = batch_of([0, 1, 2, 1], target if soft else None)
        loss = task_of(label_smoothing=0.3).losses(batch, View(logits, {}))["label"]
        assert torch.allclose(loss, -((0.7 * target + 0.3 / 3) * logits.log_softmax(1)).sum(1).mean())

    def test_float32_also_for_half_logits(self, logits):
        loss = task_of().losses(batch_of([0, 1, 2, 1]), View(logits.bfloat16(), {}))["label"]
        assert loss.dtype == torch.float32

    @pytest.mark.parametrize("wrong", [{"label_smoothing": 1.1}, {"aggregation": "median"}, {"bootstrap": -1}])
    def test_the_section_is_closed(self, wrong):
        with pytest.raises(ValidationError):
            task_of(**wrong)


class TestViews:
    def test_mean_probability_by_hand(self):
        logits = torch.tensor([[[0.0, 0.0], [math.log(9), 0.0]]])  # 1/2 and 9/10
        assert recognition.aggregate(logits, "mean_probability").exp()[0].tolist() == pytest.approx([0.7, 0.3])

    def test_mean_logit_by_hand(self):
        logits = torch.tensor([[[0.0, 3.0], [2.0, 0.0]]])
        assert recognition.aggregate(logits, "mean_logit").tolist() == [[1.0, 1.5]]

    def test_they_may_disagree(self):
        """One very sure view outweighs two unsure ones in the logits, not in the probabilities."""
        s = scored([[[9.0, 0], [0, 2], [0, 2]]], [1])
        assert task_of("ab", aggregation="mean_logit").results(s)["correct"] == 0
        assert task_of("ab", aggregation="mean_probability").results(s)["correct"] == 1

    @pytest.mark.parametrize("aggregation", ["mean_probability", "mean_logit"])
    def test_the_order_of_views_does_not_matter(self, aggregation):
        task, s = task_of(AWKWARD, aggregation=aggregation), random_scored()
        turned = Scored(s.ids, s.label, {"logits": s.kept["logits"].flip(1)})
        assert task.results(s) == task.results(turned)

    def test_one_view_is_the_clip(self):
        found = task_of(AWKWARD).results(random_scored(views=1))
        assert {k: v for k, v in found["clip"].items() if k != "ece"} == {
            k: v for k, v in found.items() if k in found["clip"] and k != "ece"
        }
        assert found["ece"] == pytest.approx(found["clip"]["ece"], abs=1e-6)

    def test_every_view_counts_in_the_clip_figures(self):
        s = random_scored()
        flat = s.kept["logits"].flatten(0, 1)
        right = (flat.argmax(1) == s.label.repeat_interleave(3)).float()
        found = task_of(AWKWARD).results(s)
        assert found["clip"]["top1"] == pytest.approx(float(right.mean()))
        assert (found["n_videos"], found["n_views"], found["views_per_video"]) == (30, 90, 3)


class TestResults:
    def test_by_hand(self):
        found = task_of().results(scored([[[3.0, 0, 0]], [[0, 3, 0]], [[0, 3, 0]], [[0, 0, 3]]], [0, 1, 0, 0]))
        assert (found["top1"], found["correct"], found["n"], found["top5"]) == (0.5, 2, 4, 1.0)
        assert found["mean_class_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
        assert found["confusion"] == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
        assert [row["accuracy"] for row in found["per_class"]] == [pytest.approx(1 / 3), 1.0, None]
        assert found["top1_interval"] == list(metrics.wilson_interval(2, 4))

    def test_they_are_json_and_hold_the_primary_figure(self):
        task = task_of(AWKWARD, bootstrap=20)
        found = task.results(random_scored())
        assert json.loads(json.dumps(found)) == found
        assert isinstance(found[task.primary], float)
        assert len(found["top1_bootstrap"]) == 2

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_answers_that_are_not_numbers_are_never_scored(self, bad):
        s = random_scored()
        s.kept["logits"][7, 1, 2] = bad
        with pytest.raises(DataError, match=r"not finite for 1 video\(s\), the first is 'v/007'"):
            task_of(AWKWARD).results(s)

    def test_logits_of_another_class_count(self):
        with pytest.raises(ValueError, match=r"\[30, V, 3\], got \(30, 3, 7\)"):
            task_of().results(random_scored())

    def test_keep(self):
        kept = task_of().keep(View(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), {}), {})["logits"]
        assert (kept.dtype, kept.requires_grad, tuple(kept.shape)) == (torch.float32, False, (2, 3))

    def test_agreement(self):
        task, s = task_of(AWKWARD), random_scored()
        other = random_scored(seed=1)
        found = task.agreement(s, Scored(s.ids, s.label, other.kept))
        assert found["both_right"] + found["broken"] == task.results(s)["correct"]
        with pytest.raises(ValueError, match="same videos"):
            task.agreement(s, Scored(s.ids[::-1], s.label, s.kept))


class TestPredictions:
    @pytest.mark.parametrize("aggregation", ["mean_probability", "mean_logit"])
    @pytest.mark.parametrize("views", [1, 3])
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_the_file_gives_the_same_figures(self, tmp_path, aggregation, views, suffix):
        task, s = task_of(AWKWARD, aggregation=aggregation, bootstrap=30), random_scored(views=views)
        path = tmp_path / f"predictions{suffix}"
        if suffix == ".csv":
            results.write_predictions(path, task, s)
        else:
            pyarrow.parquet.write_table(pa.table(task.predictions(s)), path)
        assert score.score(path, bootstrap=30) == task.results(s)

    def test_ties_survive_the_file(self, tmp_path):
        s = scored(torch.randint(2, (50, 2, 7), generator=torch.Generator().manual_seed(0)), torch.arange(50) % 7)
        results.write_predictions(tmp_path / "p.csv", task_of(AWKWARD), s)
        assert score.score(tmp_path / "p.csv") == task_of(AWKWARD).results(s)

    def test_a_row_a_video(self):
        columns = task_of(AWKWARD).predictions(random_scored())
        assert next(iter(columns)) == "video"
        assert {len(column) for column in columns.values()} == {30}
        assert all(top.startswith(best) for top, best in zip(columns["top5"], columns["prediction"], strict=True))

    def test_the_command(self, tmp_path, capsys):
        results.write_predictions(tmp_path / "p.csv", task_of(AWKWARD), random_scored())
        assert score.main([str(tmp_path / "p.csv"), "--json", str(tmp_path / "f.json"), "--bootstrap", "9"]) == 0
        figures = json.loads((tmp_path / "f.json").read_text())
        assert f"top1                 {figures['top1']:.4f}  95 %" in capsys.readouterr().out

    def test_streams_are_fused_by_the_mean_of_their_probabilities(self, tmp_path):
        """Late fusion, by hand, of a file of log probabilities and one of logits in another order."""
        first = random_scored(views=2)
        second = scored(torch.randn(30, 1, 7, generator=torch.Generator().manual_seed(1)) * 3, first.label)
        turned = Scored(second.ids[::-1], second.label.flip(0), {"logits": list(second.kept["logits"])[::-1]})
        rgb, flow, both = (tmp_path / f"{name}.csv" for name in ("rgb", "flow", "both"))
        results.write_predictions(rgb, task_of(AWKWARD), first)
        results.write_predictions(flow, task_of(AWKWARD, aggregation="mean_logit"), turned)
        mean = (
            torch.stack(list(first.kept["logits"])).softmax(2).mean(1)
            + torch.stack(list(second.kept["logits"])).mean(1).softmax(1)
        ) / 2
        results.write_predictions(
            both, task_of(AWKWARD), Scored(first.ids, first.label, {"logits": list(mean.log()[:, None])})
        )
        figures = score.score(rgb, stream=[flow])
        assert figures["confusion"] == score.score(both)["confusion"]
        assert figures["ece"] == pytest.approx(score.score(both)["ece"], abs=1e-6)
        assert score.score(rgb, stream=[flow])["confusion"] == score.score(flow, stream=[rgb])["confusion"]

    def test_what_cannot_be_fused(self, tmp_path):
        rgb, fewer = tmp_path / "rgb.csv", tmp_path / "fewer.csv"
        results.write_predictions(rgb, task_of(AWKWARD), random_scored())
        s = random_scored()
        results.write_predictions(
            fewer, task_of(AWKWARD), Scored(s.ids[1:], s.label[1:], {"logits": s.kept["logits"][1:]})
        )
        with pytest.raises(DataError, match=r"fewer\.csv and .*rgb\.csv cannot be fused: they are of other videos"):
            score.score(rgb, stream=[fewer])
        with pytest.raises(ConfigError, match="must be different files"):
            score.score(rgb, stream=[rgb])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.pop("label"), "lacks the column"),
            (lambda c: [c.pop(k) for k in list(c) if k.startswith("log_probability/")], "lacks the scores"),
            (lambda c: c["video"].__setitem__(1, c["video"][0]), "none of them twice"),
            (lambda c: c["label"].__setitem__(3, "juggling"), "'juggling' is none of the 7 classes"),
            (lambda c: c["prediction"].__setitem__(3, "x"), "v/003: the prediction says 'x'.*was changed"),
            (lambda c: c["view_rank"].__setitem__(3, "1 2"), "is not a number, or one is missing"),
            (lambda c: c["log_probability/001"].__setitem__(3, float("nan")), "not finite"),
            (lambda c: c["view_confidence"].__setitem__(0, "high 0 0"), "is not a number"),
        ],
    )
    def test_a_file_that_was_changed(self, change, message):
        columns = task_of(AWKWARD).predictions(random_scored())
        change(columns)
        with pytest.raises(DataError, match=message):
            recognition.rescore(columns)

    @pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"video,label\n1\n"])
    def test_a_file_that_is_none(self, tmp_path, content):
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"p\.csv"):
            score.score(tmp_path / "p.csv")

    def test_no_file_and_no_task(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            score.score(tmp_path / "p.csv")
        with pytest.raises(ConfigError, match="no task 'cooking'"):
            score.score(tmp_path / "p.csv", "cooking")


class TestAnswers:
    def test_the_figure_of_any_videos(self):
        columns = {"video": ["u", "v", "w"], "label": ["001", "nan", "a"], "prediction": ["1", "nan", "a"]}
        answers = task_of().answers(columns, [])
        assert answers.videos == ["u", "v", "w"]
        assert answers.figure(np.array([0, 1, 2])) == pytest.approx(2 / 3)
        assert answers.figure(np.array([0, 0, 1, 1])) == 0.5

    def test_it_is_top1_of_the_predictions_file(self, tmp_path):
        task, s = task_of(AWKWARD), random_scored()
        results.write_predictions(tmp_path / "p.csv", task, s)
        answers = task.answers(predictions_file.read(tmp_path / "p.csv", task.text), [])
        assert answers.figure(np.arange(len(s.ids))) == pytest.approx(task.results(s)["top1"])
        assert answers.videos == s.ids

    def test_videos_with_other_numbers_of_views_are_not_averaged(self):
        ragged = Scored(["u", "v"], torch.tensor([0, 1]), {"logits": [torch.zeros(2, 7), torch.zeros(3, 7)]})
        with pytest.raises(DataError, match=r"data\.windows=null"):
            task_of(AWKWARD).results(ragged)


def test_a_detector_is_refused_before_anything_is_trained():
    from vidkd import models

    detects = models.build("detector", 4, backbone="tiny4", frames=16, size_px=16, width=32, levels=3)
    with pytest.raises(ConfigError, match="needs one answer a clip; detector detects"):
        task_of().asks(detects)
    task_of().asks(models.build("tiny4", 4))
