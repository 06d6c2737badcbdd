"""Only motion tells the class: exactly so for the states, and so measured on the videos."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.__main__ import main
from data_prep.pipeline import rendering
from data_prep.pipeline.rendering import CLASSES, TURN, Settings
from vidkd.data import index
from vidkd.data.decode import open_video

SETTINGS = Settings(size=48, frames=16)


def test_a_class_permutes_the_torus():
    """Moving adds a constant to one coordinate, mod 2^16: what was uniform stays exactly uniform, at every frame."""
    scene = rendering.draw(np.random.default_rng(0), SETTINGS)
    everywhere = np.repeat(np.arange(TURN, dtype=np.uint16)[:, None], 4, axis=1)
    for label, (coordinate, _) in CLASSES.items():
        for frame in (0, 1, 7, 31):
            moved = rendering.states(replace(scene, start=everywhere), label, frame)
            for c in range(4):
                assert np.array_equal(np.sort(moved[:, c]), np.arange(TURN)), (label, frame, c)
                assert c == coordinate or np.array_equal(moved[:, c], everywhere[:, c])


def test_shapes_keep_their_distance():
    """All shapes of a clip move alike, so how they lie to each other does not tell the class either."""
    scene = rendering.draw(np.random.default_rng(1), SETTINGS)
    for label in CLASSES:
        first, later = (rendering.states(scene, label, t).astype(np.int64) for t in (0, 9))
        assert np.array_equal((first - first[0]) % TURN, (later - later[0]) % TURN), label


def test_a_frame_of_one_class_is_a_frame_of_another():
    """The picture knows the state and nothing of the class: started elsewhere, another class shows the same frame."""
    scene = rendering.draw(np.random.default_rng(2), SETTINGS)
    for label in CLASSES:
        state = rendering.states(scene, label, 5)
        elsewhere = replace(scene, start=state)
        first = rendering.paint(scene, state[None], np.array([0]), SETTINGS)[0]
        assert np.array_equal(rendering.render(elsewhere, "move_up", SETTINGS)[0], first)


def test_classes_differ_in_motion_alone():
    """With one scene, all classes start with the same frame, and no two go on alike."""
    scene = rendering.draw(np.random.default_rng(3), SETTINGS)
    clips = [rendering.render(scene, label, SETTINGS) for label in CLASSES]
    assert all(np.array_equal(clip[0], clips[0][0]) for clip in clips)
    assert len({clip[8].tobytes() for clip in clips}) == len(CLASSES)


def test_directions_are_what_they_are_called():
    """Brightness moves to the right in move_right, grows in loom_in, and so on: seen on one shape alone."""
    scene = rendering.draw(np.random.default_rng(4), Settings(size=64, difficulty=0))
    start = np.full((len(scene.start), 4), TURN // 2, np.uint16)
    start[:, 3] = 16000
    one = replace(scene, start=start)
    moved = {label: rendering.states(one, label, 1)[0].astype(int) - start[0] for label in CLASSES}
    x, y, angle, size = ({label: step[i] for label, step in moved.items()} for i in range(4))
    assert x["move_right"] > 0 > x["move_left"] and y["move_down"] > 0 > y["move_up"]
    assert angle["rotate_clockwise"] > 0 > angle["rotate_counterclockwise"] and size["loom_in"] > 0 > size["loom_out"]
    clip = rendering.render(one, "loom_in", Settings(size=64, difficulty=0)).astype(float)
    area = [(np.abs(frame - np.median(frame, (0, 1))).sum(-1) > 90).sum() for frame in clip[[0, 8]]]
    assert area[1] > 1.2 * area[0]


def test_same_bytes_every_time(tmp_path, data_prep, tree):
    small = ["motion", "--train", 8, "--test", 3, "--val", 2, "--size", 32, "--frames", 6]
    assert data_prep(*small, "--out", tmp_path / "a")[0] == 0
    assert data_prep(*small, "--out", tmp_path / "b", "--workers", 2)[0] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert data_prep(*small, "--seed", 1, "--out", tmp_path / "c")[0] == 0
    assert tree(tmp_path / "a") != tree(tmp_path / "c")
    data = index.read(tmp_path / "a")
    assert data.flip_changes_labels and data.splits == ["split1"] and len(data.classes) == 8
    assert [len(data.part("split1", part)) for part in ("train", "val", "test")] == [8, 2, 3]
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())["settings"]["size"] == 32


def test_done_is_not_done_again(tmp_path, data_prep):
    small = ["motion", "--train", 3, "--test", 0, "--size", 32, "--frames", 4, "--out", tmp_path]
    data_prep(*small)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.mp4")}
    assert data_prep(*small)[0] == 0
    assert before == {path: path.stat().st_ino for path in tmp_path.rglob("*.mp4")}


@pytest.mark.parametrize("wrong", [["--size", 33], ["--difficulty", 2], ["--train", 0, "--test", 0], ["--seed", -1],
                                   ["--classes", 1], ["--classes", 9], ["--classes", "move_left"],
                                   ["--classes", "move_left,move_left"], ["--classes", "move_left,jump"]])  # fmt: skip
def test_wrong_options(tmp_path, data_prep, wrong):
    status, said = data_prep("motion", "--out", tmp_path / "x", *wrong)
    assert status == 2 and said.startswith("error: --") and not (tmp_path / "x").exists()


def test_some_classes(tmp_path, data_prep):
    """The first ones, or those that are named, in that order."""
    for i, (said, names) in enumerate({"3": list(CLASSES)[:3], "loom_in,move_up": ["loom_in", "move_up"]}.items()):
        out = tmp_path / str(i)
        small = ["motion", "--train", 4, "--test", 0, "--size", 16, "--frames", 2, "--classes", said, "--out", out]
        assert data_prep(*small)[0] == 0
        assert list(index.read(out).classes) == names


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """(frames [N, T, 3, 56, 56] in 0..1, labels [N]) of parts train and test, decoded from the files."""
    out = tmp_path_factory.mktemp("motion")
    main([*f"motion --train 160 --test 80 --size 56 --frames 12 --workers 1 --out {out}".split()])
    data = index.read(out)

    def load(name):
        part = data.part("split1", name)
        clips = [open_video(part[i].path).get(range(12)) for i in range(len(part))]
        return torch.stack(clips).float() / 255, torch.tensor([part[i].label for i in range(len(part))])

    return load("train"), load("test")


# 80 videos, 8 classes: guessing gets 10 right; 22 or more right happens by luck once in 3,000 times.
LUCK = 22


def test_one_frame_tells_nothing(videos):
    """A 2-D network sees all frames, one at a time; even the vote of all frames of a video is a guess."""
    (x, y), (x_test, y_test) = videos
    torch.manual_seed(0)
    layers = []
    for c_in, c_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8))
    frames, labels = x.flatten(0, 1), y.repeat_interleave(12)
    optim = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(5):
        for batch in torch.randperm(len(frames)).split(64):
            loss = nn.functional.cross_entropy(net(frames[batch]), labels[batch])
            optim.zero_grad()
            loss.backward()
            optim.step()
    with torch.no_grad():
        votes = net.eval()(x_test.flatten(0, 1)).softmax(1).view(len(x_test), 12, 8).mean(1)
    assert int((votes.argmax(1) == y_test).sum()) < LUCK


def test_motion_tells_the_class(videos):
    """Drift, turning and growth, estimated from changes of brightness, in a linear classifier: far from luck."""
    (x, y), (x_test, y_test) = videos
    features, test = affine_motion(x), affine_motion(x_test)
    mean, std = features.mean(0), features.std(0)
    layer = nn.Linear(features.shape[1], 8)
    optim = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure():
        optim.zero_grad()
        loss = nn.functional.cross_entropy(layer((features - mean) / std), y) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optim.step(closure)
    right = int((layer((test - mean) / std).argmax(1) == y_test).sum())
    assert right > 2 * LUCK, right


def affine_motion(video: torch.Tensor) -> torch.Tensor:
    """[N, 4]: how the shapes of each video move right and down, turn and grow.

    In windows of 15 px, the affine motion that best explains the change from frame to frame (least squares); what the
    windows say is summed with the strength of the change as weight.
    """
    grey = video.mean(2)  # [N, T, H, W]
    grey = nn.functional.avg_pool2d(grey, 3, 1, 1)
    now, then = grey[:, 1:-1], grey[:, 2:] - grey[:, :-2]
    gx = (now.roll(-1, 3) - now.roll(1, 3)) / 2
    gy = (now.roll(-1, 2) - now.roll(1, 2)) / 2
    gt = then / 2
    windows = nn.Unfold(15, stride=6)

    def cut(t):
        n, frames = t.shape[:2]
        return windows(t.flatten(0, 1)[:, None]).view(n, frames, 225, -1).permute(0, 1, 3, 2)  # [N, T, windows, 225]

    gx, gy, gt = cut(gx), cut(gy), cut(gt)
    r = torch.arange(225)
    dx, dy = (r % 15 - 7) / 7.0, (r // 15 - 7) / 7.0
    a = torch.stack([gx, gy, gy * dx - gx * dy, gx * dx + gy * dy], -1)  # right, down, turn, grow
    normal = a.transpose(-1, -2) @ a + 0.05 * torch.eye(4)
    motion_of = torch.linalg.solve(normal, -(a.transpose(-1, -2) @ gt[..., None]))[..., 0]
    weight = gt.square().sum(-1, keepdim=True)
    return (motion_of * weight).sum((1, 2)) / weight.sum((1, 2))
