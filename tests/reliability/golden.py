"""python tests/reliability/golden.py --write: the losses of twenty steps, to be compared by every later version.

The clips are lossless, so that no encoder or decoder of another version changes a pixel.
"""

import hashlib
import json
import platform
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
FILE = HERE / "golden_losses.json"
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent)]

import tiny_set  # noqa: E402
from reliability import runs  # noqa: E402
from small_run import lines  # noqa: E402
from vidkd import evaluation  # noqa: E402

# On one machine two runs are equal to the bit. Another processor adds in another order: with oneDNN's kernels for AVX2
# in place of AVX-512 (ONEDNN_MAX_CPU_ISA=AVX2) the losses were seen to part by 8e-7 at most. Ten times that is allowed.
TOLERANCE = 1e-5
LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
# No batch statistics: over so few clips they would make a difference in the seventh digit one in the first.
RUN = ("train.steps=20", "data.val=null", "train.eval_every=null", "data.workers=0", "data.decoder=pyav",
       "student.name=tiny4", "student.options={}", "methods=[{kind: logits}]", "optim_methods=null")  # fmt: skip


def losses(folder: Path) -> list[dict[str, float]]:
    """Every loss term of every step of a run in `folder`."""
    root = tiny_set.make(folder / "lossless", test=4, options=LOSSLESS, suffix=".mkv")
    done = runs.run(root, folder / "run", *RUN)
    if done.process.exitcode:
        raise SystemExit(done.said())
    return [{k: v for k, v in line.items() if k.startswith("loss/")} for line in lines(folder / "run")]


def machine() -> dict[str, str]:
    """All that may decide the last bits: where it is the same, the losses are."""
    info = Path("/proc/cpuinfo")
    said = dict(re.findall(r"^(model name|flags)\s*:\s*(.*)$", info.read_text(), re.M)) if info.exists() else {}
    flags = hashlib.sha256(" ".join(sorted(said.get("flags", "").split())).encode()).hexdigest()
    made = {"torch": torch.__version__, "pyav": version("av"), "python": platform.python_version()}
    return made | {"processor": said.get("model name", ""), "its_flags_sha256": flags}


def main(argv: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder))
    made = evaluation.environment()
    if argv == ["--write"]:
        FILE.write_text(json.dumps({"written_with": made, "written_on": machine(), "losses": found}, indent=1) + "\n")
        print(f"written: {FILE}")
        return 0
    kept = json.loads(FILE.read_text())["losses"]
    pairs = [(now[k], then[k]) for now, then in zip(found, kept, strict=True) for k in then]
    print(f"greatest difference: {max(abs(a - b) for a, b in pairs):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
