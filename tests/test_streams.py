"""Detectors that are scored as one: what they answer together, and what cannot be joined."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import tiny_set
from conftest import CONFIGS, REPOSITORY
from data_prep import __main__ as data_prep
from vidkd import annotations, cli, compare, config_file, distiller, evaluate, evaluation, export, score
from vidkd.data import clips, index
from vidkd.errors import DataError
from vidkd.tasks import detection
from vidkd.tasks._base import Scored

CONFIG = next(path for path in CONFIGS if path.stem == "motion_detection")
RUN = [
    "data.workers=0",
    "train.threads=1",
    "train.steps=1",
    "task.threshold=0.0",
    "task.bootstrap=20",
    "task.tiou=['0.1:0.1:0.3']",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two detectors of pictures and one of flow, with nothing learned, and the two data sets that they see."""
    pytest.importorskip("cv2", reason="pip install 'vidkd[flow]'")
    folder = tmp_path_factory.mktemp("streams")
    root = tiny_set.make(folder / "rgb", train=1, test=3, frames=160)
    assert data_prep.main(["flow", "--root", str(root), "--out", str(folder / "flow"), "--workers", "0"]) == 0
    of_flow = ["student.options.backbone_options={width: 8, modality: flow}", f"data.root={folder / 'flow'}"]
    for seed, (name, more) in enumerate({"one": [], "two": [], "of_flow": of_flow}.items()):
        run = config_file.load(CONFIG, [*RUN, f"data.root={root}", f"out={folder / name}", *more])
        torch.manual_seed(seed)
        network, _ = distiller.build_network(run.student, 4, run.data.clip.frames)
        export.save_student(folder / name, network, run, tiny_set.CLASSES, None)
    return folder


def told(*words):
    return cli.run_main(evaluate.main, [str(word) for word in words])


def rows(path):
    found = annotations.read_detections(path)
    return list(zip(found.video, found.start_s, found.end_s, found.label, found.score, strict=True))


def test_what_is_written_is_the_decoded_mean_of_both(folder, tmp_path, capsys):
    """From the raw answers to every window of every video, by hand; the figures again from the file; and each alone."""
    assert told(folder / "one", "--stream", folder / "of_flow", "--out", tmp_path / "both") == 0
    said = capsys.readouterr().out
    assert f"{folder / 'one'}: mAP@" in said and f"{folder / 'of_flow'}: mAP@" in said and "together: mAP@" in said
    whole = json.loads((tmp_path / "both" / "results.json").read_text())
    figures = whole["student"]

    runs = [config_file.load(folder / name / "config.yaml") for name in ("one", "of_flow")]
    networks = [export.load_student(folder / name).tapped for name in ("one", "of_flow")]
    sets = [index.read(run.data.root) for run in runs]
    task = distiller.build_task(runs[0], sets[0].classes)
    parts = [clips.part_of(data, run, task, "test") for data, run in zip(sets, runs, strict=True)]
    assert len(parts[0]) == 6  # 40 frames, 6.25 a second: two windows a video
    kept = {name: {"segments": [], "scores": []} for name in parts[0].names()}
    for i in range(6):
        views = []
        for part, run, network in zip(parts, runs, networks, strict=True):
            item = clips.TestClips(part, run.data, {"student": run.student.view}).load((0, i))
            with torch.no_grad():
                views.append(network(item.views["student"]))
        mean = {name: sum(view.taps[name] for view in views) / 2 for name in views[0].taps if name != "frame_features"}
        joint = replace(views[0], logits=(views[0].logits + views[1].logits) / 2, taps=mean)
        for key, value in detection.keep(joint, item.extra["span_s"]).items():
            kept[item.name][key].append(value)
    names = list(kept)
    by_hand = {key: [torch.cat(kept[name][key]) for name in names] for key in ("segments", "scores")}
    expected = task.predictions(Scored(names, torch.zeros(3), by_hand))
    found = rows(tmp_path / "both" / "student_predictions.csv")
    assert [row[0] for row in found] == expected["video"]
    assert [row[4] for row in found] == pytest.approx(expected["score"], rel=1e-4)
    assert [row[1] for row in found] == pytest.approx(expected["start_s"], abs=1e-3)

    part_of = {name: name.partition("_")[0] for name in task.said.subset}
    annotations.write(tmp_path / "truth.csv", task.said.actions, part_of)  # no test video is "up", which is detected
    options = {"bootstrap": 20, "annotations": tmp_path / "truth.csv", "subset": "test", "tiou": ["0.1:0.1:0.3"]}
    again = score.score(tmp_path / "both" / "student_predictions.csv", "detection", **options)
    for said in (again, figures):
        said["per_class"] = sorted(said["per_class"], key=lambda row: row["class"])
    both = again.keys() & figures.keys()
    assert {key: again[key] for key in both} == {key: figures[key] for key in both}
    assert 0 < figures["map"] < 1 and {"map", "map_0.1", "map_interval", "ar_10", "per_class"} <= again.keys()
    first, second = whole["streams"]
    for own, name in ((first, "one"), (second, "of_flow")):
        assert told(folder / name, "--out", tmp_path / name) == 0
        alone = json.loads((tmp_path / name / "results.json").read_text())["student"]
        assert {key: own[key] for key in alone if key != "cost"} == {key: alone[key] for key in alone if key != "cost"}
    assert [seen["data_set"] for seen in figures["protocol"]["streams"]] == ["tiny", "tiny flow"]
    assert figures["cost"]["parameters"] == first["cost"]["parameters"] + second["cost"]["parameters"]
    capsys.readouterr()
    assert cli.run_main(compare.main, [str(tmp_path / "one"), str(tmp_path / "both")]) == 0
    assert "B - A: " in capsys.readouterr().out


def test_two_processes_answer_as_one(folder, tmp_path):
    """The windows of a video lie on both; the same bytes are left, and said once."""
    words = [folder / "one", "--stream", folder / "of_flow", "--out"]
    assert told(*words, tmp_path / "one") == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += ["-m", "vidkd.evaluate", *map(str, [*words, tmp_path / "two"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("together: mAP@") == done.stdout.count("written to") == 1
    one, two = ((tmp_path / name / "student_predictions.csv").read_bytes() for name in ("one", "two"))
    assert one == two and one.count(b"\n") > 3
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    for here, there in zip((a["student"], *a["streams"]), (b["student"], *b["streams"]), strict=True):
        assert {k: v for k, v in here.items() if k != "cost"} == {k: v for k, v in there.items() if k != "cost"}


def test_a_stream_and_its_copy_answer_as_it_alone(folder, tmp_path):
    (tmp_path / "copy").symlink_to(folder / "one")
    assert told(folder / "one", "--stream", tmp_path / "copy", "--out", tmp_path / "both") == 0
    assert told(folder / "one", "--out", tmp_path / "alone") == 0
    assert told(folder / "one", "--stream", folder / "two", "--out", tmp_path / "other") == 0
    both, alone, other = (rows(tmp_path / name / "student_predictions.csv") for name in ("both", "alone", "other"))
    assert [row[3] for row in both] == [row[3] for row in alone]
    for column in (1, 2, 4):
        assert [row[column] for row in both] == pytest.approx([row[column] for row in alone], rel=1e-5)
    assert [row[4] for row in alone] != pytest.approx([row[4] for row in other], rel=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stream", "{one}"], "a run together with itself says nothing new"),
        (["--stream", "{none}"], "no config.yaml beside it"),
        (["x.yaml", "--stream", "{two}"], "each run is scored by its own configuration; leave out x.yaml"),
        (["--stream", "{two}", "--part", "holdout"], "no video in part 'holdout'"),
        (["--stream", "{sharper}"], "not scored as .*one: task.sigma: 0.5 there, 0.1 here"),
        (["--stream", "{slower}"], "saw other windows of it; data.fps, data.clip and data.windows must agree"),
        (["--stream", "{coarser}"], "need the same frames, levels and classes; logits: "),
        (["--stream", "{fewer}"], r"streams of other videos cannot be joined; 'test_002' is not in all"),
        (
            ["--stream", "{recognised}"],
            "two: not scored as .*recognised: .*task.kind: 'recognition' there, 'detection' here",
        ),
    ],
)
def test_what_cannot_be_joined(folder, tmp_path, capsys, words, message):
    made = {"one": folder / "one", "two": folder / "two", "none": tmp_path / "none"}
    run = config_file.load(folder / "one" / "config.yaml")
    overrides = {
        "sharper": ["task.sigma=0.1"],
        "slower": ["data.fps=5"],
        "coarser": ["student.options.levels=4"],
        "fewer": [f"data.root={tmp_path / 'fewer_set'}"],
        "recognised": [f"data.root={folder / 'rgb'}", "task={kind: recognition}", "data.windows=null",
                       "student={name: tiny4, view: {size_px: 32}}"],
    }  # fmt: skip
    for name, changed in overrides.items():
        if "{" + name + "}" not in words:
            continue
        if name == "fewer":
            tiny_set.make(tmp_path / "fewer_set", train=1, test=2, frames=160)
            (tmp_path / "fewer_set" / "segments.csv").write_bytes((folder / "rgb" / "segments.csv").read_bytes())
        config = folder / "one" / "config.yaml"
        run = config_file.load(config, [*changed, f"out={tmp_path / name}"])
        network, _ = distiller.build_network(run.student, 4, run.data.clip.frames)
        export.save_student(tmp_path / name, network, run, tiny_set.CLASSES, None)
        made[name] = tmp_path / name
    first = made.get("recognised", folder / "one")
    if first != folder / "one":
        made["recognised"] = folder / "two"
    assert told(first, *(word.format(**made) for word in words), "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nothing_is_joined_that_was_not_seen_alike():
    task = object.__new__(detection.Task)
    one = Scored(["u", "v"], torch.zeros(2), {})
    with pytest.raises(DataError, match="'w' is not in all"):
        task.fused([one, Scored(["u", "v", "w"], torch.zeros(3), {})])
    with pytest.raises(DataError, match="'u' is not in all, or elsewhere"):
        task.fused([one, Scored(["v", "u"], torch.zeros(2), {})])


def test_scoring_the_raw_answers_keeps_only_what_is_decoded(folder):
    run = config_file.load(folder / "one" / "config.yaml")
    data = index.read(run.data.root)
    task = distiller.build_task(run, data.classes)
    part = clips.part_of(data, run, task, "test")
    network = export.load_student(folder / "one").tapped
    kept = evaluation.score({"student": network}, task.undecided, run, part, torch.device("cpu"))["student"].kept
    assert not {"frame_features", "level_features", "pyramid_0", "late"} & kept.keys()
