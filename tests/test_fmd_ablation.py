"""The grid of FMD's ablation: that it is the whole one, and that its lines differ in what their names say alone."""

from itertools import product

import pytest

from conftest import REPOSITORY
from vidkd import cli
from vidkd.bench import __main__ as bench_main
from vidkd.bench import grid, run
from vidkd.bench.sections import Bench
from vidkd.config import Degrade, TapAt

AS_LARGE = "student alone, at the teacher's 112 px"  # a line of its own
ABLATION = REPOSITORY / "configs" / "bench" / "fmd_jhmdb21.yaml"
FEATURES = ["feature_consistency", "feature_decoder"]
KINDS = {"student alone": [], "KD": ["logits"], "KD + FDD": ["logits", FEATURES[1]],
         "KD + FMC": ["logits", FEATURES[0]], "FMD": ["logits", *FEATURES]}  # fmt: skip
PX, FORMS = ("28 px", "56 px"), ("per frame", "spatiotemporal", "both")
NOISE = {"clean": None, "Gaussian": "noise_std", "blur": "blur_sigma_px", "salt and pepper": "salt_pepper",
         "JPEG": "jpeg_quality"}  # fmt: skip
SIGNED = {
    "deep": TapAt(path="Mixed_5c.relu", listen="input"),
    "shallow": TapAt(path="Conv3d_2c_3x3.bn", listen="input"),
}


@pytest.fixture(scope="module")
def ablation():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        bench = grid.expanded(Bench.model_validate(grid.config_file.read_yaml(ABLATION)))
        runs = {c.row.name: c.run() for row in bench.rows for c in grid.cells(bench, (row,))[:1]}
    return bench, runs


def test_the_ablation_is_the_whole_grid_of_the_issue(ablation):
    bench, _ = ablation
    shared = [f"{px}, {noise}" for px, noise in product(PX, NOISE)]
    own = ["student alone", "KD", *(f"{m}, {f}" for m, f in product(("KD + FDD", "KD + FMC", "FMD"), FORMS))]
    expected = {f"{mode}{name}, {view}" for mode in ("", "published, ") for name in own for view in shared}
    assert {r.name for r in bench.rows} == expected | {AS_LARGE}
    assert len(bench.rows) == len(expected) + 1 == 221
    for r in bench.rows:
        if r.name == AS_LARGE:
            continue
        mode = "published, " if r.name.startswith("published") else ""
        assert r.baseline == f"{mode}student alone, {', '.join(r.name.split(', ')[-2:])}"
        assert len(r.seeds or bench.seeds) >= 3
    claims = {r.name for r in bench.rows if len(r.seeds or bench.seeds) >= 5}
    assert {"student alone, 28 px, clean", "KD, 28 px, clean", "FMD, both, 28 px, clean"} <= claims


def test_its_lines_differ_in_what_their_names_say_and_in_nothing_else(ablation):
    _, runs = ablation
    for name, found in runs.items():
        if name == AS_LARGE:
            continue
        *words, px, noise = name.split(", ")
        view, said = found.student.view, found.student.view.degrade.model_dump()
        assert view.size_px / said.pop("downscale") == int(px.removesuffix(" px"))
        assert {key for key, value in said.items() if value != getattr(Degrade(), key)} == {NOISE[noise]} - {None}
        assert found.teacher is None or found.teacher.view.degrade == Degrade()
        forms = {method.form for method in found.methods if method.kind in FEATURES}
        assert forms == ({words[-1].replace(" ", "_")} if words[-1] in FORMS else set())
        assert (found.train.epochs, found.train.batch_size) == (6, 16)  # the budget
        kinds = [m.kind for m in found.methods]
        assert list(dict.fromkeys(kinds)) == KINDS[words[words[0] == "published"]]
        assert kinds.count(FEATURES[0]) <= (1 if words[0] == "published" else 2)  # ours compares two depths


def test_the_gap_of_low_resolution_is_between_lines_that_differ_in_it_alone(ablation):
    _, runs = ablation
    small, large = runs["student alone, 28 px, clean"], runs[AS_LARGE]
    assert large.student.view.size_px == runs["KD, 28 px, clean"].teacher.view.size_px == 112
    assert large.student.view.degrade == Degrade()
    same = {"student": small.student, "name": small.name, "out": small.out}
    assert large.model_copy(update=same) == small
    assert large.student.model_copy(update={"view": small.student.view}) == small.student


def test_its_published_lines_have_the_losses_maps_and_optimiser_of_the_release(ablation):
    _, runs = ablation
    reference = grid.config_file.load(REPOSITORY / "configs" / "motion_fmd_faithful.yaml")
    methods = {m.kind: m for m in reference.methods}
    for name, found in runs.items():
        if not name.startswith("published"):
            assert all(not getattr(m, "faithful", False) for m in found.methods)
            continue
        assert (found.task, found.optim) == (reference.task, reference.optim)
        assert found.student.taps == SIGNED
        for method in found.methods:
            form = {"form": method.form} if method.kind in FEATURES else {}
            assert method == methods[method.kind].model_copy(update=form)
        if found.teacher is not None:
            assert found.teacher.taps["deep"].listen == "input"


def names_of(bench):
    return [r.name for r in bench.rows]


def test_the_command_says_what_a_part_of_it_would_run(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(run, "plan", names_of)
    assert cli.run_main(bench_main.main, [str(ABLATION), "--dry-run", "--only", "FMD, both, 28 px, JPEG"]) == 0
    assert capsys.readouterr().out.splitlines() == ["student alone, 28 px, JPEG", "FMD, both, 28 px, JPEG"]
    assert cli.run_main(bench_main.main, [str(ABLATION), "--dry-run", "--only", "FDM*"]) == 2
    assert "no row has such a name" in capsys.readouterr().err
