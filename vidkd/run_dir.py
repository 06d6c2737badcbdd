"""A run's folder: whose it is, whether it is finished, and that only one process group writes to it."""

import json
import re
import shutil
from pathlib import Path
from typing import IO, Any

from vidkd import checkpoint, config_file
from vidkd.config import Run
from vidkd.distributed import gather_objects
from vidkd.errors import ConfigError, DataError
from vidkd.locks import holder, locked, sign

# What may differ between two starts of one run: it decides how fast, how loudly and when it gives up, not what it is.
FREE = ("out", "log", "train.processes", "train.threads", "train.log_every_steps", "train.save_every",
        "train.eval_batch_size", "train.grace_s", "train.max_nonfinite", "data.workers", "data.timeout_s",
        "data.max_bad_fraction", "teacher.allow_weak", "teacher.preflight_clips")  # fmt: skip
MARK = ".vidkd-run"  # only a folder that holds it is ever cleared; it says `saved` once a checkpoint was published
OURS = ("config.yaml", "inputs.json", "metrics.jsonl", "results.json", "student.safetensors", "methods.safetensors",
        "MODEL_CARD.md", "classes.txt", "student_predictions.csv", "teacher_predictions.csv",
        "report.html")  # fmt: skip
BAD_BATCHES = "bad_batches"
ANEW = "; --resume never starts the run anew"
OURS_FOLDERS = ("checkpoints", "tensorboard", "wandb", "evaluate", BAD_BATCHES)


def slug(name: str) -> str:
    """The folder of a row of a grid."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def claim(run: Run, resume: str) -> IO[str]:
    """Lock `run.out_dir` for this run; keep what is returned open for as long as the run lasts.

    Nothing in it is deleted or changed: that is `begin`, once nothing more can be wrong with the run. `resume`: "auto"
    will go on from what is there; "never" will delete an earlier run; the path of a checkpoint goes on from that one.
    ConfigError if the folder is another configuration's, cannot be written, is in use, or has lost its checkpoints, for
    a path where it is finished, and for "never" where a link leads out of it.
    """
    out = run.out_dir
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "a+", encoding="utf-8", opener=checkpoint.opener)  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another folder with out=...") from None
    if not locked(lock):
        raise ConfigError(f"{out}: in use by {holder(lock)}")
    sign(lock)
    mine = (out / MARK).exists()
    if not mine and any(path.name != ".lock" for path in out.iterdir()):
        raise ConfigError(f"{out}: holds files that are not a run's; choose another folder with out=...")
    (out / MARK).touch()
    if mine and resume == "never":
        if linked := [name for name in OURS_FOLDERS if (out / name).is_symlink()]:
            raise ConfigError(
                f"{out / linked[0]}: is a link, and --resume never deletes nothing behind a link: empty or remove it"
            )
    elif mine:
        if begun(out):
            same_run(run, config_file.load(out / "config.yaml"), out)
        if resume == "auto":
            _not_lost(out)
        elif finished(out):
            raise ConfigError(f"{out}: this run is finished; go on from {resume} in another folder with out=...")
    return lock


def begin(run: Run, resume: str, inputs: dict[str, Any]) -> None:
    """Make the claimed folder this run's: what "never" deletes, what a killed one left half written, what `run` and its
    `inputs` (checksums of its data and weights) are."""
    out = run.out_dir
    if resume == "never":
        _clear(out)
    for stale in (*out.glob(".tmp-*"), *(out / "checkpoints").glob(".tmp-*")):
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)  # what another process reads may stay for now
        else:
            stale.unlink()
    checkpoint.write_atomic(out / "config.yaml", config_file.dump(run).encode())
    checkpoint.write_atomic(out / "inputs.json", json.dumps(inputs, indent=1).encode())


def same_inputs(out: Path, inputs: dict[str, Any]) -> None:
    """ConfigError if the run in `out` has come further than its start, and its data or weights are others now: it would
    be neither the old run nor a new one."""
    if begun(out) and (changed := changed_inputs(out, inputs)):
        raise ConfigError(f"{out}: {' and '.join(changed)} changed since this run began; --resume never starts it anew")


def same_everywhere(run: Run, inputs: dict[str, Any], versions: dict[str, str]) -> None:
    """ConfigError, on every process, if one was started with another configuration, versions, data or weights than the
    first: together they would train something that nobody asked for."""
    mine = {"run": run.model_dump(mode="json"), "out": str(run.out_dir), "inputs": inputs, "versions": versions}
    said = gather_objects(mine)
    for other, theirs in enumerate(said):
        found = differences(said[0]["run"], theirs["run"])
        for key in ("out", "inputs", "versions"):
            found += differences(said[0][key], theirs[key], f"its {key}")
        if found:
            raise ConfigError(f"process {other} was started otherwise than process 0: {'; '.join(found)}")


def begun(out: Path) -> bool:
    """Whether the run in `out` has come further than its start."""
    return bool(checkpoint.complete(out / "checkpoints")) or (out / "results.json").exists()


def changed_inputs(out: Path, inputs: dict[str, Any]) -> list[str]:
    """Which of `inputs` are not what the run in `out` was started with; none where it did not remember any."""
    if (out / "inputs.json").exists():
        return unlike(read_json(out / "inputs.json", ANEW), inputs)
    newest = checkpoint.newest(out / "checkpoints")
    there = newest[0].state.get("inputs") if newest else None
    return unlike(there, inputs) if isinstance(there, dict) else []


def unlike(there: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
    """Which of `inputs` are not what they were `there`."""
    return sorted(key for key in inputs if there.get(key) != inputs[key])


def set_aside(out: Path, reason: str) -> Path:
    """Give the run in `out` another name beside it, with `reason` in why_aside.txt, so that a new one may take its
    place and nothing is lost. ConfigError while a process writes to it."""
    if held := in_use(out):
        raise ConfigError(f"{out}: in use by {held}")
    checkpoint.write_atomic(out / "why_aside.txt", f"{reason}\n".encode())
    number = 1
    while (aside := out.with_name(f"{out.name}.aside{number}")).exists():
        number += 1
    return out.rename(aside)


def in_use(out: Path) -> str:
    """Which process writes to `out`; "" where none does."""
    if not (out / ".lock").exists():
        return ""
    with (out / ".lock").open("a+", encoding="utf-8") as lock:
        if not locked(lock):
            return holder(lock)
    return ""


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """The object in a .json file. DataError, with the `remedy`, where it holds none or cannot be read."""
    try:
        said = json.loads(checkpoint.whole_file(path, checkpoint.MANIFEST_BYTES))
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}){remedy}") from None
    if not isinstance(said, dict):
        raise DataError(f"{path}: holds {type(said).__name__}, not an object{remedy}")
    return said


def finished(out: Path) -> dict[str, Any] | None:
    """The results of a run that came to its end; None while it has not."""
    path = out / "results.json"
    if not path.exists() or not (out / "student.safetensors").exists():
        return None
    return read_json(path, ANEW)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """`key: this != that` for every value in which two configurations differ, but for those in FREE."""
    if path in FREE or a == b:
        return []
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [f"{path}: {b!r} there, {a!r} here"]


def same_run(run: Run, there: Run, path: Path) -> None:
    """ConfigError, with what differs, if `there`, which `path` holds, is not the run that `run` describes."""
    if found := differences(run.model_dump(mode="json"), there.model_dump(mode="json")):
        listing = "\n  ".join(found)
        raise ConfigError(
            f"{path}: holds a run of another configuration:\n  {listing}\n"
            "Choose another folder with out=..., or --resume never to delete that run and start anew"
        )


def shared(out: Path) -> None:
    """ConfigError on a process that does not see what the first one wrote: all of them read the checkpoints."""
    if not (out / MARK).exists():
        raise ConfigError(f"{out}: not the same folder on every machine of this run; choose a shared one with out=...")


def saved(out: Path) -> None:
    """Remember that the run in `out` has published a checkpoint."""
    if not (out / MARK).read_bytes():
        checkpoint.write_atomic(out / MARK, b"saved\n")


def _not_lost(out: Path) -> None:
    """ConfigError if the run had saved a checkpoint, and there is none now: nothing starts anew over old results."""
    if (out / MARK).read_bytes() and not checkpoint.complete(out / "checkpoints") and not finished(out):
        raise ConfigError(
            f"{out / 'checkpoints'}: this run's checkpoints are gone: bring them back, or --resume never starts it anew"
        )


def _clear(out: Path) -> None:
    """Delete what an earlier run left: the files and folders that runs write, and no others."""
    for name in OURS_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in OURS:
        (out / name).unlink(missing_ok=True)
    checkpoint.write_atomic(out / MARK, b"")  # never through a link
