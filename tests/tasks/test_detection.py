"""The task: windows and their truth, figures and predictions, and anybody's detections scored against annotations."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vidkd import annotations, cli, predictions_file, results, score
from vidkd.errors import ConfigError, DataError
from vidkd.tasks import detection
from vidkd.tasks._base import Scored
from vidkd.tasks._detection_figures import thresholds
from vidkd.tasks._detection_file import usual_tiou
from vidkd.types import Segments, Shown, View

CLASSES = ("001", "jump", "run, fast")
ROWS = [("u", 1.0, 3.0, "jump"), ("u", 6.0, 9.5, "001"), ("u", 12.0, 30.0, "jump"), ("w", 0.0, 4.0, "run, fast"),
        ("w", 0.0, 4.0, "001"), ("x", 2.0, 5.0, "jump")]  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def made(**config):
        annotations.write(tmp_path / "segments.csv", Segments.of(ROWS))
        return detection.Task(detection.Config(kind="detection", bootstrap=50, **config), CLASSES, tmp_path)

    return made


def window(video, start_s, end_s, duration_s=20.0):
    return Shown(video, start_s, end_s, duration_s)


class TestWindows:
    def test_the_truth_of_a_window(self, make):
        truth = make().truth(window("u", 2.0, 10.0))
        assert truth["classes"].tolist() == [0, 1, -1]  # half of the jump is inside
        assert truth["segments"][0].tolist() == pytest.approx([0.5, 0.9375])
        assert truth["segments"][1].tolist() == pytest.approx([0.0, 0.125])
        assert truth["span_s"].tolist() == [2, 10]
        assert make().truth(window("u", 2.1, 10.0))["classes"].tolist() == [0, -1, -1]

    def test_all_windows_have_truth_of_one_shape(self, make):
        task = make()
        shapes = {tuple(task.truth(window(v, 0, 8))["segments"].shape) for v in ("u", "w", "nobody")}
        assert shapes == {(3, 2)}

    def test_two_labels_of_one_segment_come_in_the_order_of_the_classes(self, make):
        assert make().truth(window("w", 0, 8))["classes"].tolist()[:2] == [0, 2]

    def test_windows_are_wanted_that_hold_an_action_whole(self, make):
        task = make()
        assert task.wants(window("u", 1.0, 3.0))
        assert not task.wants(window("u", 1.5, 9.0))
        assert not task.wants(window("u", 10, 40, duration_s=12.0))  # it begins when the video is over
        assert not task.wants(window("nobody", 0, 100))

    def test_only_videos_without_any_segment_are_refused(self, make):
        make().check(["u", "nobody"], [-1, -1])
        with pytest.raises(DataError, match=r"segments\.csv: it names none of the videos, such as 'nobody'"):
            make().check(["nobody"], [0])


def scored(seed=0):
    """Two windows of each of three videos, at random."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.rand(3, 2, 28, generator=rng).double() * 15
    places = torch.stack([start, start + 6 * torch.rand(3, 2, 28, generator=rng)], dim=3)
    scores = torch.rand(3, 2, 28, 3, generator=rng)
    return Scored(["u", "w", "x"], torch.tensor([-1, -1, -1]), {"segments": list(places), "scores": list(scores)})


class TestFigures:
    def test_perfect_answers(self, make):
        task = make()
        places = [torch.tensor([[r[1:3] for r in ROWS if r[0] == v]], dtype=torch.float64) for v in "uwx"]
        label = [[CLASSES.index(r[3]) for r in ROWS if r[0] == v] for v in "uwx"]
        scores = [torch.nn.functional.one_hot(torch.tensor(own), 3)[None].float() for own in label]
        found = task.results(Scored(list("uwx"), torch.zeros(3), {"segments": places, "scores": scores}))
        assert found["map"] == found["map_0.3"] == found["map_0.1:0.1:0.5"] == found["ar_100"] == 1
        assert found["map_interval"] == [1, 1]
        assert (found["n_videos"], found["n_actions"], found["n_detections"]) == (3, 6, 6)
        assert [row["n"] for row in found["per_class"]] == [2, 3, 1]
        assert "mAP@0.3:0.1:0.7 100.0%" in task.headline(found)

    def test_the_file_says_what_the_results_say(self, make, tmp_path):
        task, s = make(), scored()
        results.write_predictions(tmp_path / "p.csv", task, s)
        columns = predictions_file.read(tmp_path / "p.csv", task.text)
        assert columns["label"][0] in CLASSES
        found = task.results(s)
        answers = task.answers(columns, s.ids)
        assert answers.videos == s.ids
        assert answers.figure(np.arange(3)) == found["map"]
        assert 0 < answers.figure(np.array([0, 0, 1])) != found["map"]
        again = score.score(tmp_path / "p.csv", "detection", bootstrap=50, annotations=tmp_path / "segments.csv")
        assert {key: again[key] for key in found} == found

    def test_agreement(self, make):
        task, s = make(), scored()
        assert task.agreement(s, s) == {"n": 6, "repeated": 6, "agreement": 1.0}
        assert task.agreement(s, scored(1))["agreement"] < 1

    def test_answers_that_are_not_finite(self, make):
        s = scored()
        s.kept["scores"][1][0, 0, 0] = float("nan")
        with pytest.raises(DataError, match="answers to 'w' are not finite"):
            make().results(s)

    def test_the_protocol_names_the_annotations(self, make, tmp_path):
        assert make().protocol()["annotations_checksum"] == annotations.read(tmp_path / "segments.csv").checksum


class TestMistakes:
    @pytest.mark.parametrize(
        "said",
        ["", "0.5:0.7", "0.7:0.1:0.5", "0:0.1:0.5", "a", "0.3:0:0.7", "0.5:0.1:1.2", "0.1:1e-9:0.5", "0.1:nan:0.5",
         "0.3:0.3:0.7"],
    )  # fmt: skip
    def test_lists_of_thresholds(self, said):
        with pytest.raises(ConfigError, match=r"must be START:STEP:STOP|do not come to 0\.7"):
            thresholds(said)
        with pytest.raises((ValidationError, ConfigError)):
            detection.Config(kind="detection", tiou=(said,))

    def test_thresholds(self):
        assert thresholds("0.3:0.1:0.7") == [0.3, 0.4, 0.5, 0.6, 0.7]
        assert thresholds("0.5") == [0.5]
        assert len(thresholds("0.5:0.05:0.95")) == 10

    def test_a_network_that_does_not_detect(self, make):
        with pytest.raises(ConfigError, match="needs a network that detects"):
            make().keep(View(torch.zeros(1, 4), {}), {"span_s": torch.zeros(1, 2)})

    def test_a_data_set_without_segments(self, tmp_path):
        with pytest.raises(DataError, match=r"no segments\.csv, which the task detection learns from"):
            detection.Task(detection.Config(kind="detection"), CLASSES, tmp_path)

    def test_segments_of_a_class_that_is_none(self, tmp_path):
        annotations.write(tmp_path / "segments.csv", Segments.of([("u", 0, 1, "cook")]))
        with pytest.raises(DataError, match=r"'cook' is not in classes\.txt"):
            detection.Task(detection.Config(kind="detection"), CLASSES, tmp_path)


class TestScore:
    def run(self, *arguments):
        return cli.run_main(score.main, [str(a) for a in arguments])

    def test_anybodys_detections(self, tmp_path, capsys):
        annotations.write(tmp_path / "a.csv", Segments.of([("v", 0, 10, "c"), ("v", 20, 30, "c")]))
        rows = [("v", 0, 10, "c", 0.9), ("v", 40, 50, "c", 0.8), ("v", 21, 31, "c", 0.7), ("other", 0, 1, "c", 1)]
        annotations.write(tmp_path / "p.csv", Segments.of(rows, scored=True))
        told = ["--annotations", tmp_path / "a.csv", "--tiou", "0.5", "--tiou", "0.9", "--json", tmp_path / "f.json"]
        assert self.run(tmp_path / "p.csv", *told) == 0
        said = capsys.readouterr().out
        assert "map                  0.8333" in said
        assert " 83.3%      2  c" in said
        figures = json.loads((tmp_path / "f.json").read_text())
        assert figures["map_0.9"] == pytest.approx(0.5)
        assert figures["n_detections_elsewhere"] == 1

    def test_the_sample_of_activitynet(self, shared, capsys):
        folder = shared / "annotations" / "activitynet"
        told = ["--annotations", folder / "anet_anno_action.json"]
        assert self.run(folder / "sample_detection_prediction.json", *told) == 2
        assert "say which subset: testing, training, validation" in capsys.readouterr().err
        assert self.run(folder / "sample_detection_prediction.json", *told, "--subset", "validation") == 0
        said = capsys.readouterr().out
        assert "n_videos             4728" in said and "tiou                 0.5:0.05:0.95" in said
        thumos = annotations.read(folder.parent / "thumos14" / "thumos_gt.json")
        assert usual_tiou(thumos) == ("0.3:0.1:0.7", "0.1:0.1:0.5")

    def test_mistakes(self, tmp_path, capsys):
        annotations.write(tmp_path / "a.csv", Segments.of([("v", 0, 10, "c")]))
        annotations.write(tmp_path / "p.csv", Segments.of([("v", 0, 10, "d", 1)], scored=True))
        annotations.write(tmp_path / "empty.csv", Segments.of([]))
        annotations.write(tmp_path / "w.csv", Segments.of([("w", 0, 10, "d")]))
        for told, message in (
            (["--annotations", tmp_path / "a.csv"], "'d' is no class of"),
            (["--annotations", tmp_path / "none.csv"], "none.csv: cannot be read"),
            (["--annotations", tmp_path / "a.csv", "--tiou", "half"], "must be START:STEP:STOP"),
            (["--annotations", tmp_path / "empty.csv"], "empty.csv: holds no action to be detected"),
            (["--annotations", tmp_path / "a.csv", "--json", tmp_path / "p.csv"], "p.csv: is read; what is written"),
            (["--annotations", tmp_path / "a.csv", "--json", tmp_path / "a.csv"], "a.csv: is read; what is written"),
            (["--annotations", tmp_path / "a.csv", "--json", tmp_path], "cannot be written there: a folder"),
            (["--annotations", tmp_path / "w.csv"], "'v', and none of its videos, is one of"),
            (["--task", "detection"], "say --annotations FILE"),
            (["--task", "detection", "--stream", tmp_path / "a.csv"], "joined before they are decoded"),
            ([], "not the predictions of a recognition run"),
        ):
            assert self.run(tmp_path / "p.csv", *told) == 2
            assert message in capsys.readouterr().err
