"""Several trained networks that answer as one: an RGB and a flow stream, each scored on its own data set of the same
videos, their raw answers joined by the task (`fused`) before anything is decoded.

Sources: Lin et al. (AFSD), CVPR 2021, section 4.1, for detectors; for recognisers the two rules of their task.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidkd import evaluation, outcome, results, run_dir
from vidkd.config import Run
from vidkd.data import clips
from vidkd.data.index import Index, Part
from vidkd.errors import ConfigError
from vidkd.taps import Tapped
from vidkd.tasks._base import BaseTask, Scored

COST = ("parameters", "gmacs")  # what all streams together cost is the sum of each


@dataclass(frozen=True)
class Stream:
    """A network, and the data set that it sees."""

    path: Path  # what a person called it
    run: Run
    index: Index
    task: BaseTask
    network: Tapped


def parts(streams: list[Stream], part_name: str) -> list[Part]:
    """What each stream sees. ConfigError unless all are scored alike; DataError where a video is not there."""
    found: list[Part] = []
    first = streams[0]
    if first.task.not_fused:
        raise ConfigError(f"--stream: {first.task.not_fused}")
    for stream in streams:
        if stream.index.classes != first.index.classes:
            raise ConfigError(f"--stream {stream.path}: trained on other classes than {first.path}")
        here, there = (outcome.scoring(own.run.task.model_dump(mode="json")) for own in (stream, first))
        differs = run_dir.differences(here, there, "task")
        differs += run_dir.differences(stream.task.protocol(), first.task.protocol(), "protocol")
        if differs:
            raise ConfigError(f"--stream {stream.path}: not scored as {first.path}: {'; '.join(differs)}")
        found.append(clips.part_of(stream.index, stream.run, stream.task, part_name))
        found[-1].check_files()
    return found


def evaluate(streams: list[Stream], part_name: str, out: Path, device: torch.device) -> dict[str, Any]:
    """Score `part_name` by all streams together and by each alone, write what `results.evaluate` writes of a student
    into `out`, and return it: `student` is what they answer together, `streams` what each of them does.

    DataError where the streams did not see the same windows of the same videos.
    """
    first, seen = streams[0], parts(streams, part_name)
    kept, alone = [_kept(stream, part, device) for stream, part in zip(streams, seen, strict=True)], []
    for stream, own in zip(streams, kept, strict=True):
        alone.append({"run": str(stream.path)} | _side(stream, part_name, stream.task.fused([own])))
    together = first.task.fused(kept)
    protocol = alone[0]["protocol"] | {"streams": [_seen(each["protocol"]) for each in alone]}
    said = {"name": first.run.name, "seed": first.run.seed, "training_s": None}
    said["student"] = results.side(first.task, together, protocol, _cost([each["cost"] for each in alone]))
    said["streams"] = alone
    results.write(out, first.run, seen[0], first.task, said, {"student": together})
    return said


def _kept(stream: Stream, part: Part, device: torch.device) -> Scored:
    networks: dict[str, nn.Module] = {"student": stream.network.to(device)}
    progress = f"scoring by {stream.path}"
    return evaluation.score(networks, stream.task.undecided, stream.run, part, device, progress=progress)["student"]


def _side(stream: Stream, part_name: str, scored: Scored) -> dict[str, Any]:
    run, weights = stream.run, results.checksum(stream.network)
    protocol = evaluation.protocol(run, stream.index, stream.task, part_name, "student", weights)
    frames = run.student.view.frames or run.data.clip.frames
    cost = results.measure(stream.network, frames, run.student.view.size_px)
    return results.side(stream.task, scored, protocol, cost)


def _seen(protocol: dict[str, Any]) -> dict[str, Any]:
    """Of a stream's protocol, what is its own."""
    keys = (*(key for key in outcome.NETWORK if key != "streams"), *outcome.VIEW, "data_set", "index_sha256")
    return {key: protocol[key] for key in keys}


def _cost(costs: list[dict[str, Any]]) -> dict[str, Any]:
    found = {key: sum(cost[key] for cost in costs) for key in COST}
    per_s = 1 / sum(1 / cost["clips_per_s"] for cost in costs)
    return found | {"clips_per_s": per_s, "clips_per_s_is": "one stream after the other"}
