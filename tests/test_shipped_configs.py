"""Every shipped configuration builds and trains a step: its own networks, methods and task, on a small index."""

import json
from functools import cache

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import tiny_set
from conftest import CONFIGS, REPOSITORY
from data_prep import __main__ as data_prep
from vidkd import config_file, distiller, models, train
from vidkd.bench import grid
from vidkd.models import attention, cost

DETECTORS = [path for path in CONFIGS if config_file.load(path).student.name == "detector"]


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory):
    return tiny_set.make(tmp_path_factory.mktemp("set") / "tiny", train=4, test=2, size=48, flip="keeps_labels")


@pytest.fixture(scope="module")
def flow_root(clips_root):
    pytest.importorskip("cv2", reason="pip install 'vidkd[flow]'")
    out = clips_root.with_name("flow")
    assert data_prep.main(["flow", "--root", str(clips_root), "--out", str(out), "--workers", "0"]) == 0
    return out


def test_d14_it_trains_a_step_and_evaluates(shipped, clips_root, tmp_path, request):
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    run = config_file.load(shipped)
    options = run.student.options
    of_flow = "flow" in (options.get("modality"), options.get("backbone_options", {}).get("modality"))
    root = request.getfixturevalue("flow_root") if of_flow else clips_root
    smaller = [f"data.root={root}", f"out={tmp_path / 'run'}", "data.workers=0", "train.batch_size=2",
               "train.epochs=null", "train.steps=1", "train.threads=1", "train.mixed_precision=no",
               "train.save_every={steps: 1}",
               "optim.warmup=null", "data.test_views.clips=1", "data.test_views.crops=1", "student.view.size_px=32",
               "student.weights=null", "student.adapt=none", "student.reset_head=false"]  # fmt: skip
    for who, section in (("student", run.student), ("teacher", run.teacher)):
        if section is not None and section.name == "detector":
            sizes = {"frames": 64, "size_px": 32, "levels": 4}  # it is made for one clip length and size
            smaller += ["data.clip.frames=64", "data.windows={train_step: 16, test_step: 32}"]
            smaller += [f"{who}.options.{key}={n}" for key, n in sizes.items()]
            if "channels" in section.options.get("backbone_options", {}):  # it is made for features; these are pictures
                smaller += [f"{who}.options.backbone_options.channels=3"]
    if run.optim.lr_scale:  # nothing is frozen that has no weights
        smaller.append(f"optim.lr_scale={json.dumps({name: s or 0.01 for name, s in run.optim.lr_scale.items()})}")
    if run.teacher is not None:
        smaller += [
            "teacher.weights=null",
            "teacher.allow_weak=true",
            "teacher.preflight_clips=2",
            "teacher.view.size_px=32",
        ]
    if run.teacher is not None and run.teacher.cache is not None:
        smaller += [f"teacher.cache={{views: 1, dir: {tmp_path / 'cache'}}}"]
    small = config_file.load(shipped, smaller)
    outcome = train.train(small)
    assert outcome["student"]["protocol"]["network"] == run.student.name
    assert outcome["student"]["n_videos"] == len(list(clips_root.glob(f"{run.data.test}_*.mp4")))
    # the student, and nothing that a method trained beside it
    network, _ = distiller.build_network(small.student, len(tiny_set.CLASSES), small.data.clip.frames)
    assert load_file(tmp_path / "run" / "student.safetensors").keys() == network.net.state_dict().keys()
    assert outcome["student"]["cost"]["parameters"] == cost.parameters(network.net)
    assert network.clip is not None
    assert outcome["student"]["cost"]["gmacs"] == pytest.approx(cost.gmacs(network, *network.clip))


@pytest.mark.parametrize("path", DETECTORS, ids=lambda p: p.stem)
def test_detectors_are_built_for_the_clips_that_they_see(path):
    """At their own size, without a number computed; and a teacher has the locations and classes of its student."""
    run = config_file.load(path)
    answers = {}
    for who, section in (("student", run.student), ("teacher", run.teacher)):
        if section is None:
            continue
        clip = (section.view.frames or run.data.clip.frames, section.view.size_px)
        answers[who] = locations(json.dumps(section.options), section.attention, clip)
        if path.stem.startswith("thumos14") and "features" not in path.stem:
            assert answers[who] == {"coarse_logits": (21, 126), "reach": (2, 126), "frame_boundary": (2, 256)}
    assert len({json.dumps(said) for said in answers.values()}) == 1


@cache
def locations(options, section, clip):
    """The shapes of what a detector says; several configurations share one."""
    with torch.device("meta"):
        made = models.build("detector", 20, **json.loads(options))
        made.clip = clip
        attention.attach(made, section, *clip)
        shapes = cost.tap_shapes(made, *clip)
    return {name: shapes[name] for name in ("coarse_logits", "reach", "frame_boundary")}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "bench").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_bench_is_valid(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert grid.load(path).name == path.stem
