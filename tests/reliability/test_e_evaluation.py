"""E: every video scored once on any number of processes, the same to the last integer; scoring changes no training."""

import json
import subprocess
import sys
from itertools import product

import pyarrow as pa
import pytest
import torch

import small_run
from conftest import REPOSITORY
from reliability import runs
from small_run import SMALL, losses, same
from vidkd import config_file, distiller, evaluate, evaluation, score, train
from vidkd.config import TestViews
from vidkd.data import clips, index, order
from vidkd.data.index import Part
from vidkd.types import View

METHODS = "[{kind: logits}, {kind: reliability.turns}]"


class Gathered(Exception):
    """Carries what a process would have sent to the others."""


def frames_of(video, indices, data):
    """Frames that say which they are, in place of decoded ones."""
    wanted = sorted(indices)
    seed = order.generator(clips._number(video.name))
    frames = torch.randint(0, 256, (video.frames, 3, 16, 16), generator=seed, dtype=torch.uint8)
    return frames[wanted], {i: place for place, i in enumerate(wanted)}


EVERY = (range(1, 15), range(1, 6))  # numbers of videos, sizes of batches
UCF101 = 3783  # test videos of its split 1


def part_of(whole: Part, count: int) -> Part:
    """`count` videos with names of their own: those of `whole`, again and again."""
    rows = [i % len(whole) for i in range(count)]
    names = [f"video_{i:04d}.mp4" for i in range(count)]
    table = whole.table.take(rows)
    table = table.set_column(table.column_names.index("path"), "path", pa.array(names))
    return Part(whole.root, table, whole.labels.take(rows))


@pytest.mark.parametrize(
    ("clip_count", "crops", "counts", "sizes"),
    [
        *((1, 1, (1, 2, 3, 5, 13), (1, 5)), (3, 1, (1, 2, 3, 5, 13), (1, 5)), (2, 3, (1, 2, 3, 5, 13), (1, 5))),
        *(pytest.param(clips, 1, *EVERY, marks=pytest.mark.slow) for clips in (1, 3)),
        pytest.param(1, 1, (UCF101,), (5,), marks=pytest.mark.slow),
    ],
)
def test_e1_any_number_of_processes_scores_alike(make, root, monkeypatch, clip_count, crops, counts, sizes):
    run = make("run", "methods=[]", "teacher=null", "student.name=tiny4")
    views = TestViews(clips=clip_count, crops=crops)
    torch.manual_seed(0)
    data_set = index.read(root)
    whole = data_set.part("split1", "test")
    student, _ = distiller.build_network(run.student, len(data_set.classes), run.data.clip.frames)
    task = distiller.build_task(run, data_set.classes)
    monkeypatch.setattr(clips, "read", frames_of)

    def scored(part: Part, world: int, size: int):
        train_section = run.train.model_copy(update={"eval_batch_size": size})
        how = run.model_copy(
            update={"train": train_section, "data": run.data.model_copy(update={"test_views": views, "workers": 0})}
        )
        sent = []
        monkeypatch.setattr(evaluation, "world_size", lambda: world)
        for rank in range(world):
            monkeypatch.setattr(evaluation, "rank", lambda rank=rank: rank)

            def gather(rows):
                raise Gathered(rows)

            monkeypatch.setattr(evaluation, "gather_objects", gather)
            with pytest.raises(Gathered) as caught:
                evaluation.score({"student": student}, task.keep, how, part, torch.device("cpu"))
            sent.append(caught.value.args[0])
        monkeypatch.setattr(evaluation, "gather_objects", lambda rows: sent)
        return evaluation._once_each(sent[0], part)

    for count in counts:
        part = part_of(whole, count)
        one = scored(part, 1, 8)
        figures = task.results(one)
        assert one.ids == part.names() and len(set(one.ids)) == count
        for world, size in product((1, 2, 3, 4), sizes):
            many = scored(part, world, size)
            assert many.ids == one.ids and torch.equal(many.label, one.label)
            for key in one.kept:
                torch.testing.assert_close(many.kept[key], one.kept[key], rtol=0, atol=1e-6)
            again = task.results(many)
            assert all(again[k] == v for k, v in figures.items() if isinstance(v, int | list))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_e1_the_test_videos_of_ucf101_are_shared_out_once_each(make, root, world):
    many, data = part_of(index.read(root).part("split1", "test"), UCF101), make("run").data
    for size in range(1, 6):
        dealt = [clips.test_loader(many, data, {}, size, rank, world).batch_sampler for rank in range(world)]
        assert sorted(key for batches in dealt for batch in batches for key in batch) == [(0, i) for i in range(UCF101)]
        assert all(len(batch) <= size for batches in dealt for batch in batches)


def test_e2_a_video_that_is_missing_or_there_twice_is_an_error(root):
    part = index.read(root).part("split1", "test")
    rows = [(i, {"logits": torch.zeros(1, 4)}) for i in range(len(part))]
    evaluation._once_each(rows, part)
    for harmed, said in ((rows[1:], "missing: test_000"), ([*rows, rows[3]], "1 of them twice")):
        with pytest.raises(evaluation.DataError, match=said):
            evaluation._once_each(harmed, part)
    with pytest.raises(evaluation.DataError, match="missing: test_000"):
        evaluation._once_each([rows[1], *rows[1:]], part)  # as many as there should be


@pytest.mark.parametrize("average", [(), ("train.ema=0.9",)])
def test_e3_evaluation_changes_no_training(make, average):
    """With dropout and batch statistics, and with an average: what is scored is then that, and else what is trained."""
    norm = (f"methods={METHODS}", "student.name=small_r3d", "student.options={width: 4}", *average)
    never, always = make("never", *norm), make("always", *norm, "data.val=val", "train.eval_every={steps: 1}")
    train.train(never)
    train.train(always)
    assert losses(never) == losses(always)
    for group in ("trainee", *(["ema"] if average else [])):
        same(*(small_run.tensors(run.out_dir, 6, group) for run in (never, always)), rtol=0, atol=0)


def test_e3_evaluating_twice_is_the_same_to_the_bit(make, tmp_path):
    run = make("run")
    train.train(run)
    for name in ("one", "two"):
        evaluate.evaluate(run, run.out_dir, "test", tmp_path / name, student_only=True)
    one, two = ((tmp_path / name / "student_predictions.csv").read_bytes() for name in ("one", "two"))
    assert one == two


def test_e4_evaluating_the_saved_student_gives_the_same_figures(make, tmp_path):
    run = make("run")
    outcome = train.train(run)
    own = config_file.load(evaluate.own_config(run.out_dir))
    again = evaluate.evaluate(own, run.out_dir, "test", tmp_path / "again", student_only=True)
    assert again["student"]["confusion"] == outcome["student"]["confusion"]
    assert again["student"]["protocol"] == outcome["student"]["protocol"]
    assert (tmp_path / "again" / "student_predictions.csv").read_text() == (
        run.out_dir / "student_predictions.csv"
    ).read_text()


@pytest.mark.parametrize("extra", [(), ("train.ema=0.5",), ("data.val=val", "train.eval_every={steps: 2}")])
def test_e4_a_checkpoint_is_evaluated_as_the_run_that_ended_with_it(make, tmp_path, extra):
    run = make("run", *extra)
    outcome = train.train(run)
    last = run.out_dir / "checkpoints" / "step00000006"
    own = config_file.load(evaluate.own_config(last))
    again = evaluate.evaluate(own, last, "test", tmp_path / "again", student_only=True)
    assert again["student"]["confusion"] == outcome["student"]["confusion"]
    assert again["student"]["protocol"] == outcome["student"]["protocol"]


@pytest.mark.slow
def test_e4_a_fresh_process_gives_the_same_figures(make, tmp_path):
    run = make("run")
    outcome = train.train(run)
    command = [sys.executable, "-m", "vidkd.evaluate", str(run.out_dir), "--student-only", "--out", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "a" / "results.json").read_text())["student"]
    assert again["confusion"] == outcome["student"]["confusion"] and again["top1"] == outcome["student"]["top1"]
    written = [folder / "student_predictions.csv" for folder in (tmp_path / "a", run.out_dir)]
    assert len({path.read_bytes() for path in written}) == 1
    command = [sys.executable, "-m", "vidkd.score", str(written[0]), "--json", str(tmp_path / "figures.json")]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)  # E5
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures and all(again[name] == value for name, value in figures.items() if name in again)
    assert {"top1", "top5", "confusion", "n_videos"} <= figures.keys() & again.keys()


@pytest.mark.slow
def test_e4_the_figures_of_the_training_are_those_of_its_checkpoint_in_a_fresh_process(make, tmp_path):
    run = make("run", "data.val=val", "train.eval_every={steps: 2}", "train.ema=0.5")
    train.train(run)
    said = [line for line in small_run.lines(run.out_dir) if "val/top1" in line]
    best = max(said, key=lambda line: line["val/top1"])  # the first of them
    for step in (4, 6):
        upto = max((line for line in said if line["step"] <= step), key=lambda line: line["val/top1"])
        path, out = run.out_dir / "checkpoints" / f"step{step:08d}", tmp_path / str(step)
        command = [sys.executable, "-m", "vidkd.evaluate", str(path), "--part", "val", "--student-only"]
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, cwd=REPOSITORY)
        figures = json.loads((out / "results.json").read_text())["student"]
        logged = {name.removeprefix("val/"): value for name, value in upto.items() if name.startswith("val/")}
        assert logged and {name: figures[name] for name in logged} == logged
    assert best["step"] in (2, 4, 6)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_e4_what_many_processes_scored_together_the_exported_student_scores_alone(root, tmp_path, world):
    """Batch statistics drift apart between processes: it is one network that is scored and exported."""
    out = tmp_path / "many"
    norm = ("student.name=small_r3d", "student.options={width: 4}", "data.augment.mixup_alpha=0")
    many = runs.ranks(root, out, world, *norm, "train.batch_size=12", "train.steps=2", base=SMALL)
    assert [rank.end() for rank in many] == [0] * world, many[0].said()
    own = config_file.load(evaluate.own_config(out))
    again = evaluate.evaluate(own, out, "test", tmp_path / "again", student_only=True)
    there = json.loads((out / "results.json").read_text())["student"]
    assert again["student"]["protocol"] == there["protocol"]
    assert again["student"]["confusion"] == there["confusion"]


def test_e5_a_predictions_file_gives_the_figures_again(make):
    run = make("run")
    outcome = train.train(run)
    for who in ("student", "teacher"):
        figures = score.score(run.out_dir / f"{who}_predictions.csv")
        assert figures["top1"] == outcome[who]["top1"]
        assert figures["confusion"] == outcome[who]["confusion"]
        assert figures["n_videos"] == outcome[who]["n_videos"]


def test_a_network_that_trains_is_scored_in_eval_mode(make, root):
    """Dropout and batch statistics stay out of an evaluation, also in the middle of a training."""
    run = make("run", "methods=[]", "teacher=null")
    data_set = index.read(root)
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, video):
            seen.append(self.training)
            return View(torch.zeros(len(video), 4), {})

    network = Watched()
    network.train()
    task = distiller.build_task(run, data_set.classes)
    evaluation.score({"student": network}, task.keep, run, data_set.part("split1", "test"), torch.device("cpu"))
    assert seen and not any(seen)
