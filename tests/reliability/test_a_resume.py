"""A1 and A5 to A9: a killed run ends as an uninterrupted one, on any number of processes, and the log says it once."""

import json
import os
import random
import re
import shutil
import signal
import time
from functools import partial

import pytest
import torch

from reliability import moments, runs
from small_run import lines, same, tensors
from vidkd import checkpoint, evaluation, run_dir
from vidkd.errors import ConfigError
from vidkd.types import ClipBatch

CACHED = ("data.augment.mixup_alpha=0", "methods=[{kind: logits}]", "optim_methods=null", "train.steps=6")


def interrupted(root, out, table, number, places, rng, *overrides):
    """Interrupt the run in `out` once inside each of `places` (None: anywhere in what is left of its life), or until it
    has come to its end before a signal; what each signal met."""
    hits = []
    for place in places:
        moment = moments.draw(table, moments.reached(out)[1], rng, place)
        run, hit = moments.interrupt(root, out, moment, number, *overrides)
        if hit is None:
            assert run.process.exitcode == 0, run.said()
            break
        hits.append(hit)
    return hits


def ends(root, out, *overrides):
    """The same command again, left alone."""
    run = runs.run(root, out, *overrides)
    assert run.process.exitcode == 0, run.said()
    return runs.left(out)


KILLS = (None, moments.START, moments.SAVE, moments.VALIDATION, None)


def test_a1_killed_at_random_moments(root, tmp_path, whole, life):
    """Augmentation, two workers, accumulation, methods with parameters of their own that learn in turn, an average."""
    out = tmp_path / "run"
    hits = interrupted(root, out, life, signal.SIGKILL, KILLS, random.Random(1))
    assert len(hits) >= 4, hits
    assert ends(root, out) == whole
    runs.tidy(out)


@pytest.mark.slow
def test_b1_signalled_at_random_moments(root, tmp_path, whole, life):
    """Twenty times, over several runs: what was reached is saved, whatever save_every says, and soon."""
    rng, hits = random.Random(3), []
    rarely = "train.save_every={steps: 100}"
    for number in range(20):
        out = tmp_path / str(number)
        for place in (None, moments.STEP, None, moments.VALIDATION, None):
            met = interrupted(root, out, life, signal.SIGTERM, [place], rng, rarely)
            hits += met
            logged, saved = moments.reached(out)
            assert logged == saved, met
        assert ends(root, out, rarely) == whole
        if len(hits) >= 20:
            break
    assert len(hits) >= 20 and {hit.status for hit in hits} <= {143, -signal.SIGTERM}
    assert all(hit.status == 143 for hit in hits if hit.place in (moments.STEP, moments.SAVE, moments.VALIDATION))
    assert max(hit.ended_s for hit in hits) < 15, hits  # alone, a tenth of a second


def killed_while_scoring(batch: int) -> None:
    """Have the process kill itself at the `batch`th batch that it scores."""
    kept, calls = evaluation._kept, 0

    def dying(*args):
        nonlocal calls
        calls += 1
        if calls == batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(*args)

    evaluation._kept = dying


# The val part is one batch, after three steps, six and nine; the test part, after the last checkpoint, two, each scored
# by the student and the teacher.
@pytest.mark.parametrize("batch", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 7))])
def test_a1_killed_inside_an_evaluation(root, tmp_path, whole, batch):
    out = tmp_path / "run"
    assert runs.run(root, out, before=partial(killed_while_scoring, batch)).process.exitcode == -signal.SIGKILL
    again = runs.run(root, out)
    assert again.process.exitcode == 0, again.said()
    assert runs.left(out) == whole
    runs.tidy(out)


@pytest.mark.slow
def test_a1_killed_with_a_cached_teacher(root, tmp_path):
    def cached(folder):
        return (*CACHED, f"teacher.cache={{views: 2, dtype: fp32, dir: {tmp_path / folder}}}")

    table = moments.timetable(root, tmp_path / "whole", *cached("one"))
    shutil.rmtree(tmp_path / "one")  # of the second run, which found it filled, the moments in it are not typical
    places = (moments.CACHE, None, moments.EVALUATION)
    hits = interrupted(root, tmp_path / "run", table, signal.SIGKILL, places, random.Random(2), *cached("two"))
    assert len(hits) >= 2, hits
    assert ends(root, tmp_path / "run", *cached("two")) == runs.left(tmp_path / "whole")


def noting(path):
    """Have the process write down every training clip that it sees, and a checksum of its pixels, by step."""
    to = ClipBatch.to

    def noted(self, device):
        with path.open("a") as file:
            for name, row in zip(self.clip, self.seen_by("student"), strict=True):
                video = row.double()
                file.write(json.dumps([name, float(video.sum()), float((video * video.roll(1, -1)).sum())]) + "\n")
        return to(self, device)

    ClipBatch.to = noted


def seen(path):
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a5_order_and_augmentation_go_on_in_the_middle_of_an_epoch(root, tmp_path, workers):
    """An epoch is three steps: interrupted twice inside one, at its last step, and at the first of the next."""
    how = (f"data.workers={workers}", "train.accumulate=1", "data.val=null", "train.eval_every=null", "teacher=null")
    how += ("methods=[]", "optim_methods=null", "train.steps=12", "train.save_every={steps: 1}")
    parts = []
    for number, stops in (("whole", (12,)), ("cut", (4, 5, 6, 7, 12))):
        for k, step in enumerate(stops):
            log = tmp_path / f"{number}{k}"
            run = runs.start(root, tmp_path / number, *how, before=partial(both, log, step))
            assert run.end() == (0 if step == 12 else 143), run.said()
            parts.append((number, seen(log)))
    cut = [clip for name, part in parts for clip in part if name == "cut"]
    assert cut == parts[0][1]
    assert len(cut) == 12 * 8
    for epoch in range(4):
        assert len({name for name, *_ in cut[epoch * 24 : epoch * 24 + 24]}) == 24
    assert len({clip for clip in cut}) == len(cut)  # every epoch augments anew


def both(log, step):
    """Note what is seen, and have SIGTERM come while `step` is being made."""
    import os

    from vidkd import trainer

    noting(log)
    update = trainer.update

    def interrupted(run, trained, *args):
        if trained.step + 1 == step < 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(run, trained, *args)

    trainer.update = interrupted


PLAIN = ("data.augment.mixup_alpha=0", "methods=[{kind: logits}]", "optim_methods=null", "student.name=tiny4",
         "student.options={}", "data.workers=0", "train.accumulate=1")  # fmt: skip


def test_a6_the_number_of_processes_may_change_at_a_fixed_global_batch(root, tmp_path):
    """One process, at once and in portions; two for the first steps, then one. Which clips a step sees is in
    tests/data/test_clips.py."""
    one, changed = tmp_path / "one", tmp_path / "changed"
    assert runs.run(root, one, *PLAIN).process.exitcode == 0
    portions = tmp_path / "portions"
    assert runs.run(root, portions, *PLAIN, "train.accumulate=2").process.exitcode == 0
    two = runs.ranks(root, changed, 2, *PLAIN, "train.save_every={steps: 3}", before=partial(runs.held, 4))
    two[0].wait_for((changed / "checkpoints" / "step00000003").exists)
    for rank in two:
        rank.signal(signal.SIGKILL)
        rank.end()
    rest = runs.run(root, changed, *PLAIN)
    assert rest.process.exitcode == 0, rest.said()
    assert "no longer to the bit, because of another processes: 2 there, 1 here" in rest.said()
    for other in (portions, changed):
        same(tensors(one, 9), tensors(other, 9), rtol=1e-5, atol=1e-6)
        for a, b in zip(lines(one), lines(other), strict=True):
            assert a["step"] == b["step"]
            if "loss/total" in a:
                assert b["loss/total"] == pytest.approx(a["loss/total"], rel=0, abs=1e-6)


def late_to_meet(met) -> None:
    """Have process 2 come two seconds late, and say when it has met the others."""
    if os.environ["RANK"] == "2":
        meet = torch.distributed.init_process_group

        def late(*args, **options):
            meet(*args, **options)
            time.sleep(2)
            met.touch()

        torch.distributed.init_process_group = late


def test_a6_a_batch_that_cannot_be_shared_says_what_can(root, tmp_path):
    three = runs.ranks(root, tmp_path / "run", 3, before=partial(late_to_meet, tmp_path / "met"))
    assert three[0].end() == 2
    # Process 0 keeps the addresses: it must not leave while another may still look for one, and wait for ever.
    assert (tmp_path / "met").exists()
    assert {rank.end() for rank in three} == {2}
    assert "train.batch_size 8 must be a multiple of processes x accumulate = 6" in three[0].said()


def test_a7_resume_is_a_habit(root, tmp_path, whole):
    out = tmp_path / "run"
    run = runs.start(root, out, before=partial(runs.held, 7))
    run.wait_for((out / "checkpoints" / "step00000006").exists)
    run.signal(signal.SIGKILL)
    run.end()
    older = out / "checkpoints" / "step00000004"
    back = runs.run(root, out, options=("--resume", str(older)))  # from an older one, because one wants to
    assert back.process.exitcode == 0, back.said()
    assert "resumed from step 4" in back.said() and "step00000006 is now aside-step00000006" in back.said()
    assert runs.left(out) == whole
    started = time.monotonic()
    again = runs.run(root, out)  # a finished run says its result
    assert again.process.exitcode == 0 and "top-1" in again.said().splitlines()[-2]
    assert time.monotonic() - started < 20
    newest = checkpoint.complete(out / "checkpoints")[0]
    refused = runs.run(root, out, options=("--resume", str(newest)))
    assert refused.process.exitcode == 2 and "this run is finished" in refused.said()
    elsewhere = runs.run(root, tmp_path / "elsewhere", options=("--resume", str(newest)))
    assert elsewhere.process.exitcode == 0, elsewhere.said()
    assert runs.left(tmp_path / "elsewhere") == whole | {"log": whole["log"][-2:]}


@pytest.mark.parametrize(
    ("wanted", "message"), [("nver", "neither auto nor never nor"), ("/tmp", "/tmp: not a whole checkpoint")]
)
def test_a7_a_checkpoint_that_is_none(root, tmp_path, wanted, message):
    run = runs.run(root, tmp_path / "run", options=("--resume", wanted))
    assert run.process.exitcode == 2
    assert message in run.said() and "Traceback" not in run.said()


def timed_refusal(path) -> None:
    """Write down the processor seconds that the run had taken when it was refused; wall time is others' too."""
    claim = run_dir.claim

    def timed(*args):
        try:
            return claim(*args)
        except ConfigError:
            path.write_text(str(time.process_time()))
            raise

    run_dir.claim = timed


def test_a8_one_run_at_a_time_and_a_dead_one_holds_nothing(root, tmp_path, whole):
    out = tmp_path / "run"
    first = runs.start(root, out, env={"SLURM_JOB_ID": "4711"}, before=partial(runs.held, 4))
    first.wait_for((out / "checkpoints").exists)
    second = runs.start(root, out, before=partial(timed_refusal, tmp_path / "seconds"))
    second.log = first.log
    assert second.end() == 2
    assert float((tmp_path / "seconds").read_text()) < 2
    assert re.search(rf"in use by process {first.pid} on \S+, job 4711", first.said())
    first.signal(signal.SIGKILL)
    first.end()
    third = runs.run(root, out)
    assert third.process.exitcode == 0, third.said()
    assert runs.left(out) == whole


@pytest.mark.slow
def test_a9_two_hundred_signals_are_one(root, tmp_path, whole):
    """A scheduler may send the same signal to every process of a job step, again and again."""
    out = tmp_path / "run"
    run = runs.start(root, out, before=partial(runs.held, 2))
    run.wait_for_step(2)
    for _ in range(200):
        run.signal(signal.SIGTERM)
        time.sleep(0.001)
    assert run.end() == 143, run.said()
    again = runs.run(root, out)
    assert again.process.exitcode == 0, again.said()
    assert runs.left(out) == whole


def test_a9_the_log_has_every_step_once(whole):
    training = [line["step"] for line in whole["log"] if "loss/total" in line]
    scoring = [line["step"] for line in whole["log"] if "val/top1" in line]
    assert training == list(range(1, 10))
    assert scoring == [3, 6, 9]
