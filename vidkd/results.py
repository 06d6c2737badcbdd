"""Evaluate a student, and its teacher beside it, and write what a person and a program can use."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.csv
import torch
from torch import nn

from vidkd import checkpoint, config_file, distributed, evaluation, teacher_scores
from vidkd.config import Run
from vidkd.data import clips
from vidkd.data.index import Index, Part
from vidkd.models import attention
from vidkd.taps import Frozen, Tapped
from vidkd.tasks._base import BaseTask, Scored


def evaluate(
    run: Run,
    index: Index,
    part_name: str,
    task: BaseTask,
    student: Tapped,
    teacher: Frozen | None,
    out: Path,
    training_s: float | None = None,
    bottleneck: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score `part_name`, write config.yaml, the predictions and results.json into `out`, and return the results.

    Nothing is written before all is scored, and results.json last: where it is, the rest is and belongs to it.

    `training_s` is what the training took and `bottleneck` what it waited for, where this evaluation ends one. `say`
    hears, on the first process, where the teacher's answers were kept or whose were used (teacher_scores).
    """
    device = next(student.parameters()).device
    part = clips.part_of(index, run, task, part_name)
    bare = {"student": student} | ({"teacher": teacher.tapped} if teacher is not None else {})
    protocols = {
        who: evaluation.protocol(run, index, task, part_name, who, checksum(network)) for who, network in bare.items()
    }
    networks: dict[str, nn.Module] = {"student": student}
    known, kept_at = None, teacher_scores.place(run, protocols["teacher"]) if teacher is not None else None
    if kept_at is not None:
        known = distributed.from_first(lambda: teacher_scores.read(kept_at))
    if teacher is not None and known is None:
        networks["teacher"] = teacher
    scores = evaluation.score(networks, task.keep, run, part, device, progress=f"scoring {part_name}")
    if known is not None:
        scores["teacher"] = known
    results: dict[str, Any] = {"name": run.name, "seed": run.seed, "training_s": training_s}
    results |= {"bottleneck": bottleneck} if bottleneck else {}
    for who, network in bare.items():
        section = run.student if who == "student" else run.teacher
        assert section is not None
        cost = measure(network, section.view.frames or run.data.clip.frames, section.view.size_px)
        results[who] = side(task, scores[who], protocols[who], cost)
    if teacher is not None:
        results["agreement"] = task.agreement(scores["teacher"], scores["student"])
    write(out, run, part, task, results, scores)
    if kept_at is not None and distributed.rank() == 0:
        say(_kept(kept_at, scores["teacher"], known))
    return results


def _kept(path: Path, scored: Scored, known: Scored | None) -> str:
    """Keep the teacher's answers if they are new; what to say of it. A full disk is no reason to lose an evaluation."""
    if known is not None:
        return f"the teacher was not scored again: its answers are those of {path}"
    try:
        teacher_scores.keep(path, scored)
    except OSError as error:
        return f"{path}: the teacher's answers could not be kept for other runs ({error.strerror})"
    return f"the teacher's answers are kept for other runs: {path}"


def side(task: BaseTask, scored: Scored, protocol: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    """What results.json says of one network's answers."""
    figures = task.results(scored)
    protocol = protocol | {"coverage": {**protocol["coverage"], "scored": len(scored.ids)}}
    said = {"headline": task.headline(figures), "primary": task.primary, "title": task.title}
    return figures | said | {"protocol": protocol, "cost": cost}


def write(
    out: Path, run: Run, part: Part, task: BaseTask, results: dict[str, Any], scores: Mapping[str, Scored]
) -> None:
    """config.yaml, the predictions of each of `scores`, and results.json, to which the environment is added.

    The first process writes, and what it finds wrong all say.
    """
    results["environment"] = evaluation.environment()

    def written() -> None:
        results["environment"]["decoded_by"] = evaluation.decoded_by(part, run.data.decoder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").unlink(missing_ok=True)  # of another evaluation, whose predictions are replaced now
        checkpoint.write_atomic(out / "config.yaml", config_file.dump(run).encode())  # what was scored, and how
        for who, scored in scores.items():
            write_predictions(out / f"{who}_predictions.csv", task, scored)
        checkpoint.write_atomic(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())

    distributed.on_first(written)


def checksum(network: Tapped) -> str:
    """sha256 of the weights that were scored, names included: equal for equal networks, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_predictions(path: Path, task: BaseTask, scored: Scored) -> None:
    """The task's table; CSV that spreadsheets, `vidkd.score` and `predictions_file` read."""
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table(task.predictions(scored)), sink)
    checkpoint.write_atomic(path, sink.getvalue().to_pybytes())


def measure(network: Tapped, frames: int, size_px: int) -> dict[str, Any]:
    """Parameters, GMACs of one clip (with and without an attention), and clips/s of the bare network on this machine.

    Batches of 8, or of 1 where 8 clips are more than 20 GMACs; the median of 5 batches after one to warm up, or of as
    many as fit in 5 s. On a CPU with one thread, whatever the run uses, so that rows of a table can be compared.
    """
    device = next(network.parameters()).device
    costs = attention.costs(network, frames, size_px)
    batch = 8 if 8 * costs["gmacs"] <= 20 else 1
    video = torch.zeros(batch, len(network.input.mean), frames, size_px, size_px, dtype=torch.uint8, device=device)
    seconds: list[float] = []
    network.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        while len(seconds) < 2 or (len(seconds) < 6 and sum(seconds) < 5):
            started = time.perf_counter()
            network(video)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return costs | {
        "clips_per_s": batch / median(seconds[1:]),
        "clips_per_s_is": f"network alone, batch {batch}, {device.type}{', 1 thread' * (device.type == 'cpu')}",
    }


def one_line(figures: dict[str, Any]) -> str:
    """The protocol line: what was got, on what, how."""
    p, cost = figures["protocol"], figures["cost"]
    slide = p.get("windows")
    views = f"windows every {slide['test_step']} frames" if slide else f"{p['clips']}x{p['crops']} views"
    return (
        f"{figures['headline']}, {p['network']}, {p['data_set']} {p['split']} "
        f"{p['part']} {p['coverage']['scored']}/{p['coverage']['expected']} videos, "
        f"{p['frames']}x{p['stride']:g} frames "
        f"at {p['size_px']} px, {views}; {attention.said(cost)}, {cost['clips_per_s']:.1f} clips/s"
    )
