"""Generative attention distillation on two processes and in bf16: turns, ramps from 0, other channels."""

import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import tiny_set
from conftest import REPOSITORY
from generative_pair import BATCH, made
from vidkd import config_file, train
from vidkd.taps import autocast

STEP_1, STEP_2 = (REPOSITORY / "configs" / f"jhmdb21_generative{which}.yaml" for which in ("_teacher", ""))
SMALL = ("data.clip={frames: 8, stride: 1}", "data.augment={flip: 0}", "data.workers=0", "student.options={}",
         "student.weights=null", "student.adapt=none", "student.reset_head=false", "student.taps={}",
         "student.view={size_px: 16, frames: 4}", "optim.lr_scale={}", "optim.warmup=null", "train.batch_size=8",
         "train.epochs=null", "train.steps=4", "train.save_every={steps: 1}", "train.log_every_steps=1")  # fmt: skip
TEACHER = ("teacher.name=tiny16", "teacher.view={size_px: 16, frames: 4}", "teacher.allow_weak=true",
           "teacher.preflight_clips=2", "teacher.cache=null", "teacher.taps={}",
           "teacher.mixed_precision=no")  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The data set, and the directory of a trained step 1."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    folder = tmp_path_factory.mktemp("generative")
    clips_root = tiny_set.make(folder / "tiny", train=16, test=4)
    own = ("student.name=tiny16", f"data.root={clips_root}", f"out={folder / 'teacher'}")
    train.train(config_file.load(STEP_1, [*SMALL, *own]))
    return clips_root, folder / "teacher"


@pytest.fixture
def words(places, tmp_path):
    """The overrides of a small step 2 in a folder of its own."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()

    def said(name, *overrides, student="tiny16"):
        clips_root, teacher = places
        own = (f"student.name={student}", f"teacher.weights={teacher}", f"data.root={clips_root}")
        return [*SMALL, *TEACHER, *own, f"out={tmp_path / name}", *overrides]

    return said


def on_two(words):
    """The real command on two processes; the run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "vidkd.train"]
    done = subprocess.run([*command, str(STEP_2), *words, "train.processes=2"], capture_output=True, text=True,
                          cwd=REPOSITORY, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return config_file.load(STEP_2, words)


def checkpoint(run, step):
    return load_file(run.out_dir / "checkpoints" / f"step{step:08d}" / "trainee.safetensors")


@pytest.mark.parametrize("generative", ["release", "teacher_features", "mixed", "posterior_kl"])
def test_terms_in_bf16_are_those_of_float32_and_so_is_who_learns(generative):
    """In bf16 numbers have 8 bits: a term may be off by some percent, a gradient may not change its way."""

    def terms(precision):
        with autocast(torch.device("cpu"), precision):
            method, own, student, teacher = made(generative=generative)
            torch.manual_seed(1)
            found = method(BATCH, own(student.video.float() * own.std + own.mean), teacher)
        learners = {}
        for name, term in found.items():
            named = {"cvae": list(method.cvae.parameters()), "net": list(own.parameters())}
            learners[name] = {
                who
                for who, parameters in named.items()
                if any(
                    g is not None for g in torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
                )
            }
        return found, learners

    (exact, routes), (rough, same_routes) = terms("no"), terms("bf16")
    assert routes == same_routes and {len(who) for who in routes.values()} == {1}
    for name, term in rough.items():
        assert term.dtype == torch.float32
        assert float(term.detach()) == pytest.approx(float(exact[name].detach()), rel=0.05, abs=1e-3), name


def test_t5_equal_cvaes_agree_exactly_in_bf16_too():
    with autocast(torch.device("cpu"), "bf16"):
        method, _, student, teacher = made(noise="shared")
        method.take_kept(method.cvae.state_dict())
        assert method(BATCH, student, teacher)["generative"].item() == 0


@pytest.mark.slow
def test_turns_on_two_processes_are_those_of_one(words):
    """The network, by its label and the teacher's attention alone, draws no noise; the CVAE rests in its turn."""
    quiet = ("methods.0.turn={steps: 1}", "methods.0.weights={prior: 0.0, attention: 1.0}")
    two = on_two(words("two", *quiet))
    one = config_file.load(STEP_2, words("one", *quiet))
    train.train(one)
    a, b = checkpoint(one, 4), checkpoint(two, 4)
    assert a.keys() == b.keys()
    for name in (n for n in a if n.startswith("student.")):
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    before = checkpoint(two, 3)  # steps 0 and 2 are the CVAE's, 1 and 3 the network's
    changed = {n for n in b if not torch.equal(before[n], b[n])}
    assert changed and not any(".cvae." in n for n in changed)


@pytest.mark.slow
@pytest.mark.parametrize("turn", ["null", "{steps: 1}"])
def test_two_processes_where_a_ramp_begins_at_0_and_channels_differ(words, turn):
    """At step 0 `prior` weighs nothing, and nothing else asks for the map of lam: not to be waited for."""
    weights = "methods.0.weights={attention: 0.0, prior: {to: 0.5, steps: 3}}"
    run = on_two(words("two", f"methods.0.turn={turn}", weights, "train.mixed_precision=bf16", student="tiny4"))
    a, b = checkpoint(run, 3), checkpoint(run, 4)
    assert any(not torch.equal(a[n], b[n]) for n in a if n.startswith("methods.0.match.lam"))
    assert all(torch.isfinite(t).all() and t.dtype == torch.float32 for t in b.values())
