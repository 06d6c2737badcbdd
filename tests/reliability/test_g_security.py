"""G: no file that is loaded and no configuration runs code; secrets reach no file; trackers never stop a run."""

import ast
import base64
import hashlib
import json
import os
import pickle  # noqa: TID251  to plant what must never be run
import sys
import time
import types
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from reliability import runs
from small_run import KD, SMALL, lines
from vidkd import annotations, checkpoint, config_file, evaluate, log, models, outcome, run_dir, score, teacher_store
from vidkd.data import decode, index
from vidkd.errors import VidkdError
from vidkd.export import load_student, read_card
from vidkd.models import weights

REPOSITORY = Path(__file__).parent.parent.parent


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.write_text, (self.trace, "executed"))


def in_checkpoint(folder: Path, content: bytes) -> Path:
    """A checkpoint whose manifest vouches for the planted file."""
    path = checkpoint.save(folder / "checkpoints", 1, {"trainee": {"w": torch.zeros(1)}}, {})
    (path / "trainee.safetensors").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["trainee.safetensors"] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest["sha256"] = checkpoint._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def in_store(folder: Path, content: bytes) -> teacher_store.Store:
    store = teacher_store.Store(folder, "fp32", 2, 1)
    store.write("logits", 0, 0, torch.zeros(2, 3))
    path = store.path("logits", 0, 0)
    path.write_bytes(content)
    proof = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(proof))
    return store


def in_set(folder: Path, name: str, content: bytes) -> Path:
    (folder / "dataset.json").write_text('{"name": "x", "horizontal_flip": "keeps_labels"}')
    (folder / "classes.txt").write_text("a\n")
    (folder / name).write_bytes(content)
    return folder


def file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


LOADERS = {
    "weights of a network, .pt": lambda d, c: weights.load(models.build("tiny4", 4), file(d / "w.pt", c)),
    "weights of a network, .pth": lambda d, c: weights.load(models.build("tiny4", 4), file(d / "w.pth", c)),
    "weights, .safetensors": lambda d, c: weights.load(models.build("tiny4", 4), file(d / "w.safetensors", c)),
    "weights of a run": lambda d, c: weights.load(models.build("tiny4", 4), file(d / "student.safetensors", c).parent),
    "exported student": lambda d, c: load_student(file(d / "student.safetensors", c)),
    "checkpoint, resumed": lambda d, c: checkpoint.newest(in_checkpoint(d, c).parent),
    "checkpoint, chosen": lambda d, c: checkpoint.read(in_checkpoint(d, c)),
    "checkpoint, evaluated": lambda d, c: checkpoint.student_tensors(in_checkpoint(d, c)),
    "manifest": lambda d, c: checkpoint.read(file(d / "manifest.json", c).parent),
    "teacher cache": lambda d, c: in_store(d, c).verify("logits"),
    "index.csv": lambda d, c: index.read(in_set(d, "index.csv", c)),
    "index.parquet": lambda d, c: index.read(in_set(d, "index.parquet", c)),
    "classes.txt": lambda d, c: index.read(in_set(d, "classes.txt", c)),
    "dataset.json": lambda d, c: index.read(in_set(d, "dataset.json", c)),
    "packed frames": lambda d, c: decode.open_video(file(d / "x.raw", c), "auto").__enter__(),
    "configuration": lambda d, c: config_file.load(file(d / "x.yaml", c)),
    "predictions.csv": lambda d, c: score.score(file(d / "x.csv", c)),
    "predictions.parquet": lambda d, c: score.score(file(d / "x.parquet", c)),
    "results": lambda d, c: run_dir.finished(
        file(file(d / "student.safetensors", c).with_name("results.json"), c).parent
    ),
    "a run's own configuration": lambda d, c: config_file.load(evaluate.own_config(file(d / "config.yaml", c))),
    "metrics": lambda d, c: log.read(file(d / "metrics.jsonl", c).parent),
    "what a method kept": lambda d, c: weights.read_kept(file(d / weights.KEPT, c).parent),
    "annotations.csv": lambda d, c: annotations.read(file(d / "x.csv", c)),
    "annotations.json": lambda d, c: annotations.read(file(d / "x.json", c)),
    "features": lambda d, c: decode.open_video(file(d / "x.npy", c), "auto").__enter__(),
    "the card of an export": lambda d, c: read_card(file(d / "student.safetensors", c)),
    "results of a run that is shown": lambda d, c: outcome.results_of(file(d / "results.json", c).parent),
    "detections": lambda d, c: annotations.read_detections(file(d / "x.json", c)),
}


@pytest.mark.parametrize("form", ["pickle", "text pickle", "torch", "old torch"])
@pytest.mark.parametrize("loader", LOADERS)
def test_g1_nothing_planted_is_executed(tmp_path, loader, form):
    trace = tmp_path / "trace"
    there = {"state_dict": {"net.weight": torch.zeros(1)}, "extra": Planted(trace)}
    if "pickle" in form:
        content = pickle.dumps(there, protocol=0 if form == "text pickle" else None)
    else:
        torch.save(there, tmp_path / "saved", _use_new_zipfile_serialization=form == "torch")
        content = (tmp_path / "saved").read_bytes()
    folder = tmp_path / "there"
    folder.mkdir()
    with pytest.raises((VidkdError, ValueError)):
        LOADERS[loader](folder, content)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Planted(trace)))  # and the plant is a live one
    assert trace.exists()


def test_g1_features_of_objects_are_refused(tmp_path):
    """What numpy would unpickle if it were let."""
    trace = tmp_path / "trace"
    np.save(tmp_path / "x.npy", np.array([[Planted(trace)]], dtype=object), allow_pickle=True)
    with pytest.raises(VidkdError, match=r"x\.npy"), decode.open_video(tmp_path / "x.npy", "auto"):
        pass
    assert not trace.exists()
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert trace.exists()


@pytest.mark.parametrize("loader", ["index.parquet", "predictions.parquet"])
def test_g1_a_type_that_a_parquet_file_brings_is_not_unpickled(tmp_path, loader):
    """As older versions of pyarrow did (CVE-2023-47248)."""
    trace = tmp_path / "trace"
    said = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Planted(trace))}
    schema = pa.schema([pa.field("path", pa.string(), metadata=said)])
    pyarrow.parquet.write_table(pa.table({"path": ["x"]}, schema), tmp_path / "planted")
    folder = tmp_path / "there"
    folder.mkdir()
    with pytest.raises((VidkdError, ValueError)):
        LOADERS[loader](folder, (tmp_path / "planted").read_bytes())
    kept = base64.b64decode(pyarrow.parquet.read_metadata(tmp_path / "planted").metadata[b"ARROW:schema"])
    assert b"arrow.py_extension_type" in kept and not trace.exists()


FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"load_source", "run_path", "run_module", "system", "popen", "read_pickle", "loadmat"}


@pytest.mark.parametrize(
    "path", sorted([*REPOSITORY.glob("vidkd/**/*.py"), *REPOSITORY.glob("data_prep/**/*.py")]), ids=str
)
def test_g1_the_sources_call_nothing_that_runs_a_file(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            # joblib hands work to a cluster that the person named, there alone; its load is never called
            allowed = {"joblib"} if path.name == "cluster.py" else set()
            assert not {name.split(".")[0] for name in names} & (FORBIDDEN - allowed)
        if isinstance(node, ast.keyword):
            said = (node.arg, getattr(node.value, "value", None))
            assert said not in {("weights_only", False), ("allow_pickle", True), ("shell", True)}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in BUILTINS and called.split(".")[-1] not in CALLS, called
            if called in ("np.load", "numpy.load"):
                assert path.name == "features.py" and "allow_pickle=False" in ast.unparse(node)
            if called in ("torch.load", "torch.jit.load", "torch.hub.load"):
                assert path.name == "_weights_file.py" and "weights_only=True" in ast.unparse(node)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['touch {trace}']", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("student: {{_target_: os.system, _args_: ['touch {trace}']}}", "_target_: no such key"),
        ("methods: [{{kind: reliability.planted}}]", "lacks Config and Method"),
        ("methods: [{{kind: idlelib.idle}}]", "lacks Config and Method"),
        ("methods: [{{kind: antigravity.fly}}]", "cannot be imported from here"),
        ("task: {{kind: os.path}}", "cannot be imported from here"),
        ("methods: [{{kind: ../planted}}]", "no distillation method"),
    ],
)
def test_g2_a_configuration_runs_no_code(tmp_path, monkeypatch, text, said):
    trace = tmp_path / "trace"
    monkeypatch.setenv("VIDKD_PLANTED", str(trace))
    before = set(sys.modules)
    raw = KD.read_text().splitlines()
    top = text.split(":")[0]
    kept, dropping = [], False
    for line in raw:  # the shipped configuration, with the section replaced
        if line[:1] not in (" ", "#", ""):
            dropping = line.startswith(f"{top}:")
        if not dropping:
            kept.append(line)
    path = file(tmp_path / "x.yaml", "\n".join([*kept, text.format(trace=trace)]).encode())
    with pytest.raises(VidkdError, match=said):
        config_file.load(path)
    assert not trace.exists()
    assert not {"antigravity", "idlelib", "idlelib.idle", "reliability.planted"} & (set(sys.modules) - before)


def test_g2_a_bomb_of_aliases_ends_at_once(tmp_path):
    bomb = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    started = time.monotonic()
    with pytest.raises(VidkdError, match="anchors and aliases"):
        config_file.load(file(tmp_path / "x.yaml", bomb.encode()))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "deep",
    ["[" * 100_000, "[" * 9000 + "]" * 9000, "{a: " * 50_000, "\n  " + "- " * 50_000 + "x", "\n  " + "? " * 50_000],
)
def test_g2_a_bomb_of_levels_ends_at_once(tmp_path, deep):
    started = time.process_time()
    with pytest.raises(VidkdError, match="inside each other more than 50 times"):
        config_file.load(file(tmp_path / "x.yaml", f"a: {deep}".encode()))
    assert time.process_time() - started < 1
    with pytest.raises(VidkdError, match="inside each other more than 50 times"):
        config_file.load(KD, [f"seed={deep[:600]}"])


def test_g2_nothing_is_looked_up_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    run = config_file.load(KD, ["data.root=${oc.env:WANDB_API_KEY}", "name=$WANDB_API_KEY"])
    assert "planted-secret" not in config_file.dump(run)


SECRETS = {name: "planted-secret" for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD")}


@pytest.mark.parametrize(
    "trackers",
    [("log.tensorboard=true",), pytest.param(("log.wandb=offline",), marks=pytest.mark.slow)],
    ids=["tensorboard", "wandb"],
)
def test_g3_a_secret_reaches_no_file(root, tmp_path, trackers):
    out = tmp_path / "run"
    asked = "name=${oc.env:MY_PASSWORD}"  # which OmegaConf would write into every file
    run = runs.run(root, out, *trackers, "train.save_every={steps: 1}", asked, base=SMALL, env=SECRETS)
    assert run.process.exitcode == 0, run.said()
    written = [path for path in out.rglob("*") if path.is_file()]
    assert any("tensorboard" in str(path) or "wandb" in str(path) for path in written)
    for path in (*written, run.log):
        assert b"planted-secret" not in path.read_bytes(), path


def fake_wandb(how: str) -> None:
    """A tracker that fails, or never answers, when it is started or when it is told something."""

    def trouble(*args, **kwargs):
        if how.endswith("raises"):
            raise RuntimeError("no network")
        time.sleep(600)

    tracker = types.SimpleNamespace(log=trouble if how.startswith("log") else lambda *a, **k: None, finish=lambda: None)
    init = trouble if how.startswith("init") else lambda **k: tracker
    sys.modules["wandb"] = types.SimpleNamespace(init=init, Settings=lambda **k: None)  # type: ignore[assignment]
    log.CLOSE_S, log.BEHIND = 0.5, 2


@pytest.mark.parametrize(
    "how",
    [
        "init raises",
        pytest.param("init blocks", marks=pytest.mark.slow),
        pytest.param("log raises", marks=pytest.mark.slow),
        "log blocks",
    ],
)
def test_g9_a_tracker_never_stops_a_run(root, tmp_path, how):
    run = runs.run(root, tmp_path / "run", "log.wandb=online", base=SMALL, before=partial(fake_wandb, how))
    assert run.process.exitcode == 0, run.said()
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 7))
    assert (
        "Weights & Biases failed and is ignored: no network" if "raises" in how else "lines behind"
    ) in run.said().replace(" from now on", "")


def test_g9_nothing_is_tracked_unless_it_is_asked_for(root, tmp_path):
    assert config_file.load(KD).log.wandb == "off"
    run = runs.run(root, tmp_path / "run", base=SMALL, before=partial(fake_wandb, "init raises"))
    assert run.process.exitcode == 0
    assert "Weights & Biases" not in run.said()
    assert os.environ.get("WANDB_MODE") is None
