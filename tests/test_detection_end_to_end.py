"""Detection from rendered videos to a figure, and from a video file to events."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import tiny_set
from conftest import CONFIGS
from data_prep import __main__ as data_prep
from vidkd import cli, config_file, distiller, evaluation, export, predict, sliding, train
from vidkd.data import clips, index
from vidkd.data.decode import open_video
from vidkd.errors import ConfigError
from vidkd.tasks import detection
from vidkd.types import View

CONFIG = next(path for path in CONFIGS if path.stem == "motion_detection")
RUN = ["data.workers=0", "train.threads=1"]


@pytest.fixture
def run(tmp_path):
    """A detector that has learned nothing, saved as a run saves it, beside videos of 100 frames."""
    root = tiny_set.make(tmp_path / "set", train=1, test=2, frames=100)
    made = config_file.load(CONFIG, [*RUN, f"data.root={root}", "train.steps=1", "task.threshold=0.0", "task.most=40"])
    torch.manual_seed(0)
    network, _ = distiller.build_network(made.student, 4, made.data.clip.frames)
    export.save_student(tmp_path / "run", network, made, tiny_set.CLASSES, None)
    return made, network.eval(), tmp_path


def test_prediction_sees_what_evaluation_sees(run):
    made, network, folder = run
    data_set = index.read(made.data.root)
    task = distiller.build_task(made, data_set.classes)
    part = clips.part_of(data_set, made, task, "test")
    assert len(part) == 2  # 100 frames are 25 at 6.25 a second: less than one window
    scored = evaluation.score({"student": network}, task.keep, made, part, torch.device("cpu"))["student"]
    expected = task.predictions(scored)
    student = export.load_student(folder / "run")
    assert student.fps == 6.25 and student.task["kind"] == "detection"
    with open_video(part[1].path) as video:
        starts, span = sliding.windows(student, video, None)
        assert (starts, span) == ([0], 25)
        found = sliding.events([student], detection, [video], starts, batch=2)
    own = [i for i, name in enumerate(expected["video"]) if name == part[1].name and expected["start_s"][i] < 4.0]
    assert [e[3] for e in found] == pytest.approx([expected["score"][i] for i in own], rel=1e-4)
    assert [e[0] for e in found] == pytest.approx([expected["start_s"][i] for i in own], abs=1e-3)


def test_events_as_text_json_and_picture(run, capsys):
    _, _, folder = run
    video = folder / "set" / "test_000.mp4"
    told = ["--model", folder / "run", "--task", "detection", "--json", folder / "e.json", "--png", folder / "e.png"]
    told += ["--html", folder / "e.html"]
    assert cli.run_main(predict.main, [str(a) for a in (video, *told, "--threshold", "0.0")]) == 0
    assert "1 window(s) of 4.00 s" in capsys.readouterr().out
    events = json.loads((folder / "e.json").read_text())["events"]
    assert 0 < len(events) <= 40
    assert all(0 <= e["start_s"] < e["end_s"] <= 4.0 and e["class"] in tiny_set.CLASSES for e in events)
    assert (folder / "e.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "e.html").read_text()
    assert page.count('class="bar"') == page.count("<tr><td>") == len(events)
    assert page.count("data:image/jpeg") == predict.PICTURES and "<script" not in page
    assert cli.run_main(predict.main, [str(a) for a in (video, *told, "--threshold", "1")]) == 0
    assert "nothing is sure enough" in capsys.readouterr().out
    assert cli.run_main(predict.main, [str(video), "--model", str(folder / "run"), "--task", "recognition"]) == 2
    assert "was trained for detection" in capsys.readouterr().err


def test_two_streams_answer_as_one(run, capsys):
    """The mean of the raw answers; of the same stream twice, what it says alone. Other windows cannot be joined."""
    made, _, folder = run
    torch.manual_seed(1)
    other, _ = distiller.build_network(made.student, 4, made.data.clip.frames)
    export.save_student(folder / "other", other, made, tiny_set.CLASSES, None)
    first, second = (export.load_student(folder / name) for name in ("run", "other"))
    with open_video(folder / "set" / "test_000.mp4") as video:
        alone, twice, both = (
            sliding.events(streams, detection, [video] * len(streams), [0], batch=1)
            for streams in ([first], [first, first], [first, second])
        )
    assert [e[2:] for e in twice] == [e[2:] for e in alone] != [e[2:] for e in both]
    clip = torch.randint(0, 256, (2, 3, 32, 32, 32), dtype=torch.uint8)
    views = [detection.said_of(each.tapped(clip)) for each in (first, second)]
    fused = detection.fused(views)
    torch.testing.assert_close(fused.taps["reach"], (views[0].taps["reach"] + views[1].taps["reach"]) / 2)
    torch.testing.assert_close(fused.logits, (views[0].logits + views[1].logits) / 2)
    with pytest.raises(ConfigError, match="need the same frames, levels and classes; logits: "):
        detection.fused([views[0], View(views[1].logits[..., :-1], views[1].taps)])

    slower = made.model_copy(update={"data": made.data.model_copy(update={"fps": 10.0})})
    export.save_student(folder / "slower", other, slower, tiny_set.CLASSES, None)
    told = [folder / "set" / "test_000.mp4", "--model", folder / "run", "--model"]
    assert cli.run_main(predict.main, [str(a) for a in (*told, folder / "other", "--threshold", "0")]) == 0
    assert "detector and detector, 4 classes: 1 window(s)" in capsys.readouterr().out
    assert cli.run_main(predict.main, [str(a) for a in (*told, folder / "slower")]) == 2
    assert "its fps is 10.0, that of" in capsys.readouterr().err


def test_a_stream_of_optical_flow(run, capsys):
    """RGB and flow together: flow as data_prep stored it, and flow that is computed where it is needed."""
    pytest.importorskip("cv2", reason="pip install 'vidkd[flow]'")
    made, _, folder = run
    options = made.student.options | {"backbone_options": {"width": 8, "modality": "flow"}}
    of_flow = made.model_copy(update={"student": made.student.model_copy(update={"options": options})})
    network, _ = distiller.build_network(of_flow.student, 4, made.data.clip.frames)
    more = {"task": of_flow.task.model_copy(update={"background": True})}  # it teaches; what is answered is alike
    export.save_student(folder / "of_flow", network, of_flow.model_copy(update=more), tiny_set.CLASSES, None)
    assert data_prep.main(["flow", "--root", str(folder / "set"), "--out", str(folder / "flow"), "--workers", "0"]) == 0
    stored = index.read(folder / "flow").part("split1", "test")[0].path
    video = folder / "set" / "test_000.mp4"
    streams = ["--model", folder / "run", "--model", folder / "of_flow", "--threshold", "0"]

    def told(*words):
        out = folder / "e.json"
        arguments = [str(a) for a in (video, *streams, "--json", out, "--png", folder / "e.png", *words)]
        status = cli.run_main(predict.main, arguments)
        return status, json.loads(out.read_text())["events"] if status == 0 else capsys.readouterr().err

    status, said = told()
    assert status == 2 and "a network of optical flow: give --flow FILE" in said
    (_, kept), (_, computed) = told("--flow", stored), told("--flow-side", 64)
    best = [max(e["score"] for e in found) for found in (kept, computed)]
    assert best[0] == pytest.approx(best[1], rel=0.1)  # but for the compression of what is stored
    one, two = export.load_student(folder / "run"), export.load_student(folder / "of_flow")
    with open_video(video) as seen, open_video(stored) as flow:
        both = sliding.events([one, two], detection, [seen, flow], [0], batch=1)
        alone = sliding.events([two], detection, [flow], [0], batch=1)
    assert [e["score"] for e in kept] == pytest.approx([e[3] for e in both], rel=1e-5)
    assert [e[3] for e in alone] != [e[3] for e in both]
    streams[1:4] = [folder / "of_flow"]  # alone, on a file of flow itself
    video = stored
    assert told()[0] == 0
    video, other = folder / "set" / "test_000.mp4", tiny_set.make(folder / "other_set", train=1, test=1, frames=12)
    assert told("--flow", other / "test_000.mp4")[1].endswith("holds no optical flow that data_prep flow has stored\n")
    for words, message in ((("--flow", stored, "--flow-side", 64), "give one"), (("--flow-side", 2), "16 or more")):
        assert message in told(*words)[1]


def test_rendered_videos_say_what_happens_when(tmp_path):
    """While an action lasts the picture changes; in a pause it stands still. Twice the same command, the same files."""
    told = [
        "motion",
        "--untrimmed",
        "--size",
        "32",
        "--train",
        "2",
        "--test",
        "1",
        "--difficulty",
        "0",
        "--workers",
        "1",
    ]
    for name in ("a", "b"):
        assert data_prep.main([*told, "--frames", "150", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a" / "segments.csv").read_bytes() == (tmp_path / "b" / "segments.csv").read_bytes()
    data = index.read(tmp_path / "a")
    assert data.table["checksum"] == index.read(tmp_path / "b").table["checksum"]
    rows = [line.split(",") for line in (tmp_path / "a" / "segments.csv").read_text().splitlines()[1:]]
    assert rows and {row[4] for row in rows} == {"train", "test"}
    for i, part in ((0, "train"), (1, "train"), (0, "test")):
        clip = data.part("split1", part)[i]
        with open_video(clip.path) as video:
            frames = video.get(range(150)).float()
        change = (frames[1:] - frames[:-1]).abs().amax(dim=(1, 2, 3))
        acting = torch.zeros(149, dtype=torch.bool)
        for _, start, end, *_ in (row for row in rows if row[0] == clip.name):
            acting[round(float(start) * 25) : round(float(end) * 25) - 1] = True
        assert change[acting].median() > 3 * change[~acting].median()


@pytest.mark.slow
def test_a_trained_detector_finds_what_happens_when(tmp_path):
    """14 minutes on a busy core. Seen once: mAP 0.97 over tIoU 0.3 to 0.7 (95 %: 0.95 to 0.995)."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    told = ["motion", "--untrimmed", "--classes", "4", "--size", "48", "--train", "96", "--test", "24"]
    assert data_prep.main([*told, "--difficulty", "0", "--workers", "2", "--out", str(tmp_path / "set")]) == 0
    run = config_file.load(CONFIG, [*RUN, f"data.root={tmp_path / 'set'}", f"out={tmp_path / 'run'}"])
    figures = train.train(run)["student"]
    assert figures["map"] > 0.8
    assert figures["map_0.7"] > 0.8 * figures["map_0.3"]  # where a class is right, so are its boundaries
    assert all(row["ap"] > 0.7 for row in figures["per_class"])
