"""Runs and benches as they lie on disk once they are finished; no network is trained."""

import json
from pathlib import Path
from unittest.mock import patch

import torch

from vidkd import config_file
from vidkd.bench import grid, table
from vidkd.config import Run
from vidkd.data import index
from vidkd.results import write_predictions
from vidkd.tasks import recognition
from vidkd.tasks._base import Scored

TIMES = {"time/step_s": 0.1, "time/data_s": 0.02, "time/student_s": 0.03, "time/backward_s": 0.04}
COSTS = {"student": (11_000, 0.02, 900.0), "teacher": (340_000, 0.61, 41.0)}


def a_run(out: Path, root: Path, *, teacher: bool, seed: int = 0) -> Run:
    """A configuration; never trained."""
    network = "tiny16" if out.parent.name == "teacher" else "tiny4"
    said = {
        "name": out.parent.name,
        "out": str(out),
        "seed": seed,
        "task": {"kind": "recognition"},
        "data": {"root": str(root), "clip": {"frames": 8}},
        "student": {"name": network, "view": {"size_px": 16, "frames": 4}},
        "optim": {"kind": "sgd", "lr": 0.1},
        "train": {"steps": 200, "batch_size": 4},
    }
    if teacher:
        said["teacher"] = {"name": "tiny16", "view": {"size_px": 32}}
        said["methods"] = [{"kind": "logits"}]
    return config_file.parse(said, "test")


def scored(data_set: index.Index, skill: float, seed: int) -> Scored:
    """Answers that are the likelier right the more `skill`."""
    part = data_set.part("split1", "test")
    label = torch.tensor([part[i].label for i in range(len(part))])
    noise = torch.randn(len(part), 1, len(data_set.classes), generator=torch.Generator().manual_seed(seed))
    logits = noise + skill * torch.nn.functional.one_hot(label, len(data_set.classes))[:, None]
    return Scored(part.names(), label, {"logits": logits})


def fake_run(out: Path, root: Path, skill: float, seed: int, *, teacher: bool) -> None:
    """All that a finished run leaves, but for its weights."""
    out.mkdir(parents=True)
    run, data_set = a_run(out, root, teacher=teacher, seed=seed), index.read(root)
    task = recognition.Task(recognition.Config(kind="recognition"), data_set.classes)
    results = {"name": run.name, "seed": seed, "training_s": 100.0 + seed, "environment": environment()}
    for who, network in (("student", run.student), ("teacher", run.teacher)):
        if network is None:
            continue
        answers = scored(data_set, skill if who == "student" else 3.0, seed if who == "student" else 99)
        parameters, gmacs, clips_per_s = COSTS[who if out.parent.name != "teacher" else "teacher"]
        results[who] = task.results(answers) | {
            "protocol": protocol(run, data_set, network.name, network.view.size_px),
            "cost": {"parameters": parameters, "gmacs": gmacs, "clips_per_s": clips_per_s, "clips_per_s_is": "bare"},
        }
        write_predictions(out / f"{who}_predictions.csv", task, answers)
    (out / "results.json").write_text(json.dumps(results))
    (out / "config.yaml").write_text(config_file.dump(run))
    rng = torch.Generator().manual_seed(seed)
    lines = []
    for step in range(10, 201, 10):
        noise = torch.rand(2, generator=rng).tolist()
        terms = {"loss/label": 2 / (1 + step / 60) + noise[0] / 4}
        terms |= {"loss/logits/kd": 3 / (1 + step / 30) + noise[1] / 3} if teacher else {}
        lines.append({"step": step, **terms, "loss/total": sum(terms.values()), **TIMES})
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def protocol(run: Run, data_set: index.Index, network: str, size_px: int) -> dict:
    n = len(data_set.part("split1", "test"))
    return {
        "data_set": data_set.name, "index_sha256": data_set.checksum(), "split": "split1", "part": "test",
        "coverage": {"scored": n, "expected": n}, "network": network, "frames": 8, "stride": 1, "size_px": size_px,
        "degrade": run.student.view.degrade.model_dump(mode="json"), "clips": 1, "crops": 1, "mixed_precision": "no",
        "decoder": "auto",
    }  # fmt: skip


def environment() -> dict:
    return {"vidkd": "0.1", "python": "3.11", "packages": {"torch": "2.10"}, "git_commit": None, "cuda": None}


def fake_bench(out: Path, root: Path, rows: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A finished bench: the first of the rows is the baseline; bench.json is written as vidkd.bench writes it."""
    bench = grid.Bench.model_validate(
        {
            "name": "fake <grid>",
            "out": out,
            "first": [{"name": "teacher", "config": "configs/t.yaml"}],
            "rows": [{"name": name, "config": "configs/k.yaml", "set": {"optim.lr": 0.1}} for name in rows],
            "seeds": seeds,
            "baseline": next(iter(rows)),
        }
    )
    for cell in grid.cells(bench, bench.first):
        fake_run(cell.out, root, 3.0, cell.seed, teacher=False)
    for cell in grid.cells(bench, bench.rows):
        fake_run(cell.out, root, rows[cell.row.name], cell.seed, teacher=cell.row.name != bench.baseline)
    with patch.object(table, "speed", said_cost):
        summary = {"bench": bench.model_dump(mode="json"), "rows": table.rows_of(bench)}
    (out / "bench.json").write_text(json.dumps(summary))
    return out


def said_cost(cell: grid.Cell, _num_classes: int, _known: dict) -> dict:
    """The cost that the fake run said, in place of a measurement."""
    return json.loads((cell.out / "results.json").read_text())["student"]["cost"]


def probed(folder: Path, values: dict[str, float], sizes: dict[int, float]) -> None:
    """Write what vidkd.probe finds of a run: top-1 by what is done to time, and by size in px."""
    points = [{"time": t, "frames": 4, "size_px": 16, "primary": "top1", "top1": v, "own_size": True}
              for t, v in values.items()]  # fmt: skip
    points += [{"time": "as_is", "frames": 4, "size_px": px, "primary": "top1", "top1": v, "own_size": False}
               for px, v in sizes.items()]  # fmt: skip
    (folder / "probe.json").write_text(json.dumps({"weights_sha256": "0", "points": points}))
