"""Imports go down the list, never up and never sideways."""

import ast
from pathlib import Path

import pytest

LAYERS = [
    {"errors"},
    {"types", "section", "distributed", "registry"},
    {
        "taps",
        "optim",
        "metrics",
        "signals",
        "annotations",
        "average_precision",
        "predictions_file",
        "intervals",
        "stopwatch",
        "locks",
    },
    {"models"},
    {"methods", "tasks"},
    {"config"},
    {"config_file"},
    {"data", "distiller", "checkpoint", "card"},
    {"log", "run_dir", "export", "evaluation", "teacher_store", "teacher_scores", "processes"},
    {"teacher_cache", "preflight", "results", "trained", "guard", "outcome", "bottleneck", "sliding"},
    {"stepping", "streams"},
    {"trainer"},
    {"cli", "timeline", "pulls"},
    {"train", "evaluate", "predict", "score", "bench", "report", "cache", "plan", "compare", "probe", "extract"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOT = Path(__file__).parent.parent / "vidkd"
# All that data_prep may use of the toolkit.
PREPARATION = {
    "errors",
    "locks",
    "types",
    "annotations",
    "data.index",
    "data.index_rows",
    "data.decode",
    "data.container",
    "data.complete",
    "data.colours",
    "data.flow",
}


def imported(path: Path):
    """The modules of vidkd that the file imports, below `vidkd.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vidkd":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "vidkd.data":
            yield from (f"data.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vidkd."):
            yield node.module.removeprefix("vidkd.")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("vidkd.") for a in node.names if a.name.startswith("vidkd."))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    me = path.relative_to(ROOT).with_suffix("").parts[0]
    if me == "__init__":
        return
    assert me in RANK, f"{me} has no layer: give it one here and in docs/architecture.md"
    tops = {name.split(".")[0] for name in imported(path)} - {me}
    up = {name for name in tops if RANK[name] >= RANK[me]}
    assert not up, f"{me} may not import {sorted(up)}"


@pytest.mark.parametrize("path", sorted((ROOT.parent / "data_prep").rglob("*.py")), ids=lambda p: p.name)
def test_data_prep_needs_little(path):
    assert set(imported(path)) <= PREPARATION


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("decord", {"data/decoders.py"}),
        ("wandb", {"log.py"}),
        ("accelerate", {"processes.py", "trained.py", "stepping.py", "trainer.py"}),
        ("ruamel", {"config_file.py"}),
    ],
)
def test_one_place_imports(package, allowed):
    def names(node):
        if isinstance(node, ast.ImportFrom):
            return [node.module or ""]
        return [a.name for a in node.names] if isinstance(node, ast.Import) else []

    users = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if any(name.split(".")[0] == package for name in names(node))
    }
    assert users <= allowed


def test_no_module_is_called_utils():
    assert not [p for p in ROOT.parent.glob("*/**/*util*.py") if ".venv" not in p.parts]
