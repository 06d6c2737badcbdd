"""What every distillation method and every task must do. A new file is tested here with no edit."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from conftest import CONFIGS
from vidkd import annotations, config_file, distiller, methods, models, tasks
from vidkd.errors import ConfigError
from vidkd.methods._base import BaseMethod
from vidkd.section import in_steps
from vidkd.types import ClipBatch, Segments, Shown

SMALL = ("student.name=tiny4", "teacher.name=tiny16", "student.options={}", "teacher.options={}", "data.clip.frames=8",
         "student.view.frames=4", "teacher.view.frames=8", "student.view.size_px=16", "teacher.view.size_px=32",
         "student.weights=null", "teacher.weights=null", "student.adapt=none", "teacher.adapt=none",
         "student.reset_head=false", "teacher.reset_head=false", "student.taps={}", "teacher.taps={}")  # fmt: skip
# A detector is made for one clip length and size.
SMALL_DETECTORS = tuple(
    f"{who}.options={{backbone: {net}, frames: 8, size_px: 16, width: 32, levels: 3}}"
    for who, net in (("student", "tiny4"), ("teacher", "tiny16"))
)
SMALL_DETECTORS += tuple(f"{who}.view={{size_px: 16, frames: 8}}" for who in ("student", "teacher"))
SMALL_DETECTORS += ("data.clip.frames=8", "student.weights=null", "teacher.weights=null", "data.windows=null")
K = 4
ROOT = Path()  # where a test keeps the truth of its tasks
SEGMENTS = Segments.of([(f"clip{i}", 0.1 * i, 0.5 + 0.1 * i, "abcd"[i]) for i in range(4)])


@pytest.fixture(autouse=True)
def _truth(tmp_path, monkeypatch):
    """A prepared data set, as far as a task reads it."""
    annotations.write(tmp_path / "segments.csv", SEGMENTS)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)


def run_for(kind):
    """A shipped run that uses the method, with it alone, and with networks and clips small enough for a test."""
    for path in CONFIGS:
        shipped = config_file.load(path)
        own = shipped.student.taps  # which only that network has
        sections = [m for m in shipped.methods if m.kind == kind and getattr(m, "student_tap", None) not in own]
        if sections:
            alone = json.dumps([sections[0].model_dump(mode="json")])
            small = SMALL_DETECTORS if shipped.student.name == "detector" else SMALL
            said = [f"methods={alone}", "teacher.cache=null", f"data.root={ROOT}", *small]
            return in_steps(config_file.load(path, said), 10)
    return pytest.fail(f"no shipped config uses method {kind!r}: add one to configs/")


def one_batch(run, task, n=4):
    """All views show the same clips, which are smooth: of noise nobody can draw what another view of it has."""
    torch.manual_seed(1)
    scene = torch.randint(0, 256, (n, 3, 8, 8, 8)).float()
    views = {
        name: F.interpolate(scene, (v.frames, v.size_px, v.size_px), mode="trilinear").to(torch.uint8)
        for name, v in run.views().items()
    }
    names = tuple(f"clip{i}" for i in range(n))
    truth = [task.truth(Shown(name, 0.0, 1.0, 1.0, tuple(range(8)), (0, 0, 32, 32))) for name in names]
    extra = {key: torch.stack([t[key] for t in truth]) for key in truth[0]}
    return ClipBatch(views, torch.arange(n) % K, names, extra=extra)


def step_of(kind, seed=0):
    run = run_for(kind)
    torch.manual_seed(seed)
    trainee, teacher, _ = distiller.build(run, K)
    task = distiller.build_task(run, tuple("abcd"))
    batch = one_batch(run, task)
    seen = teacher(batch.seen_by("teacher"))
    student, terms = trainee(batch, seen)
    every = distiller.losses(run, 0, task.losses(batch, student), terms)
    return run, trainee, teacher, task, batch, terms, every


def leaves(loss):
    """Every tensor that loss.backward() would write a gradient to."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [parent for parent, _ in node.next_functions]


@pytest.mark.parametrize("kind", methods.names())
class TestEveryMethod:
    def test_terms_are_finite_scalars_with_gradient(self, kind):
        terms = step_of(kind)[5]
        assert terms
        for name, term in terms.items():
            assert name.startswith(f"{kind}/")
            assert term.shape == (), name
            assert torch.isfinite(term), name
            assert term.requires_grad, name

    def test_every_student_and_method_parameter_learns(self, kind):
        _, trainee, *_, every = step_of(kind)
        every["total"].backward()
        assert [n for n, p in trainee.named_parameters() if p.grad is None] == []

    def test_nothing_learns_that_the_optimiser_cannot_see(self, kind):
        """A layer kept in a plain dict or list gets gradients but is in no optimiser and no checkpoint."""
        _, trainee, *_, every = step_of(kind)
        known = {id(p) for p in trainee.parameters()}
        assert [tuple(leaf.shape) for leaf in leaves(every["total"]) if id(leaf) not in known] == []

    def test_the_teacher_never_learns_and_never_changes(self, kind):
        run = run_for(kind)
        _, trainee, teacher, task, batch, *_ = step_of(kind)
        before = {n: t.clone() for n, t in teacher.state_dict().items()}
        trainee.train()
        teacher.train()
        seen = teacher(batch.seen_by("teacher"))
        assert not seen.logits.requires_grad
        student, terms = trainee(batch, seen)
        distiller.losses(run, 0, task.losses(batch, student), terms)["total"].backward()
        assert all(p.grad is None for p in teacher.parameters())
        assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())

    def test_total_is_the_weighted_sum(self, kind):
        run, *_, terms, every = step_of(kind)
        section = run.methods[0]
        supervised = every.keys() - terms.keys() - {"total"}
        expected = sum(run.task.weight(name, 0) * every[name] for name in supervised)
        expected += sum(section.weight(n.split("/")[1], 0) * t for n, t in terms.items())
        torch.testing.assert_close(every["total"], expected)

    def test_it_says_which_terms_it_has(self, kind):
        """Not every method can; one that does must not refuse a weight that has its term, nor accept another."""
        _, trainee, *_, terms, _ = step_of(kind)
        said = trainee.methods[0].terms()
        assert said is None or {f"{kind}/{name}" for name in said} == terms.keys()

    def test_it_says_which_teacher_taps_it_reads(self, kind):
        """A teacher cache stores what is declared: a method fed nothing but that must not miss anything."""
        _, trainee, teacher, _, batch, *_ = step_of(kind)
        method = trainee.methods[0]
        seen = teacher(batch.seen_by("teacher"))
        declared = {name: seen.taps[name] for name in method.teacher_taps()}
        less = type(seen)(seen.logits, declared, seen.video if method.needs_input else None)
        trainee(batch, less)

    def test_fifty_steps_lower_the_loss_on_one_batch(self, kind):
        run, trainee, teacher, task, batch, *_ = step_of(kind)
        optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-2)
        seen = teacher(batch.seen_by("teacher"))
        history = []
        for _ in range(50):
            student, terms = trainee(batch, seen)
            total = distiller.losses(run, 0, task.losses(batch, student), terms)["total"]
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            history.append(total.item())
        assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("kind", tasks.names())
class TestEveryTask:
    def test_a_shipped_config_uses_it(self, kind):
        assert kind in {config_file.load(path).task.kind for path in CONFIGS}

    def test_it_says_which_terms_it_has(self, kind):
        method = next(name for name in methods.names() if run_for(name).task.kind == kind)
        *_, task, _, terms, every = step_of(method)
        assert task.terms() is None or set(task.terms()) == every.keys() - terms.keys() - {"total"}


def test_a_weight_for_no_term_is_a_mistake():
    run, trainee, _, task, batch, terms, _ = step_of("logits")
    student = trainee.student(batch.seen_by("student"))
    method = run.methods[0].model_copy(update={"weights": {"kd": 1.0, "kdd": 2.0}})
    wrong = run.model_copy(update={"methods": (method,)})
    with pytest.raises(ConfigError, match=r"methods.0.weights: no loss term 'kdd'; did you mean 'kd'\?"):
        distiller.losses(wrong, 0, task.losses(batch, student), terms)
    wrong = run.model_copy(update={"task": run.task.model_copy(update={"weights": {"lable": 1.0}})})
    with pytest.raises(ConfigError, match=r"task.weights: no loss term 'lable'"):
        distiller.losses(wrong, 0, task.losses(batch, student), terms)


def test_a_weight_for_no_term_is_found_before_the_first_step():
    run, trainee, _, task, *_ = step_of("logits")
    method = run.methods[0].model_copy(update={"weights": {"kdd": 2.0}})
    with pytest.raises(ConfigError, match=r"methods.0.weights: no loss term 'kdd'; did you mean 'kd'\?"):
        distiller.check_weights(run.model_copy(update={"methods": (method,)}), trainee, task)
    wrong = run.model_copy(update={"task": run.task.model_copy(update={"weights": {"lable": 1.0}})})
    with pytest.raises(ConfigError, match=r"task.weights: no loss term 'lable'"):
        distiller.check_weights(wrong, trainee, task)
    with pytest.raises(ConfigError, match=r"(?s)'lable'.*'kdd'"):  # all at once
        distiller.check_weights(wrong.model_copy(update={"methods": (method,)}), trainee, task)


def test_two_methods_of_one_kind_keep_their_terms_apart():
    assert distiller.method_keys(["logits", "mylab.logits", "hint"]) == ["logits", "logits_2", "hint"]


def test_a_new_method_file_is_found_without_any_edit(tmp_path, monkeypatch):
    (tmp_path / "mylab_hint.py").write_text(
        "from vidkd.methods._base import BaseMethod, MethodSection\n"
        "class Config(MethodSection):\n    power: float = 2.0\n"
        "class Method(BaseMethod[Config]):\n"
        "    def forward(self, batch, student, teacher):\n"
        "        return {'gap': (student.logits - teacher.logits).abs().pow(self.config.power).mean()}\n"
    )
    package = tmp_path / "mylab"
    package.mkdir()
    (tmp_path / "mylab_hint.py").rename(package / "hint.py")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    path = next(p for p in CONFIGS if p.stem == "motion_kd")
    run = config_file.load(path, ["methods=[{kind: mylab.hint, power: 3.0}]", *SMALL])
    trainee, teacher, _ = distiller.build(run, K)
    batch = one_batch(run, distiller.build_task(run, tuple("abcd")))
    _, terms = trainee(batch, teacher(batch.seen_by("teacher")))
    assert isinstance(trainee.methods[0], BaseMethod)
    assert list(terms) == ["hint/gap"]
    with pytest.raises(ConfigError, match="powr: no such key"):
        config_file.load(path, ["methods=[{kind: mylab.hint, powr: 3.0}]"])


def test_a_new_task_file_is_found_without_any_edit(tmp_path, monkeypatch):
    package = tmp_path / "mytasks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "margin.py").write_text(
        "from vidkd.tasks._base import BaseTask, TaskSection\n"
        "class Config(TaskSection):\n    margin: float = 1.0\n"
        "class Task(BaseTask[Config]):\n"
        "    def losses(self, batch, student):\n"
        "        right = student.logits.gather(1, batch.label[:, None])\n"
        "        return {'gap': (student.logits - right + self.config.margin).relu().mean()}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = next(p for p in CONFIGS if p.stem == "motion_student")
    small = [said for said in SMALL if said.startswith(("student", "data"))]
    run = config_file.load(path, ["task={kind: mytasks.margin, margin: 2.0, weights: {gap: 0.5}}", *small])
    task = distiller.build_task(run, tuple("abcd"))
    trainee, _, _ = distiller.build(run, task.num_outputs())
    batch = one_batch(run, task)
    student, terms = trainee(batch, None)
    every = distiller.losses(run, 0, task.losses(batch, student), terms)
    torch.testing.assert_close(every["total"], 0.5 * every["gap"])
    with pytest.raises(ConfigError, match=r"task.marign: no such key; did you mean 'margin'"):
        config_file.load(path, ["task={kind: mytasks.margin, marign: 2.0}", *small])


def test_the_folder_is_the_registry():
    assert "logits" in methods.names()
    assert not [n for n in (*methods.names(), *tasks.names()) if n.startswith("_")]
    assert models.names() == sorted(models.zoo())
