"""A student as files: there and back, and every way in which they can be wrong."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import vidkd
from vidkd import card, config_file, export, models
from vidkd.errors import DataError, VidkdError

CLASSES = ("archery", "piano", "surfing", "a, b|c")


def run_of(name="tiny16", **student):
    return config_file.parse(
        {
            "name": "demo",
            "task": {"kind": "recognition"},
            "data": {"root": "data/demo", "clip": {"frames": 8, "stride": 2}, "short": "hold"},
            "student": {"name": name, "view": {"size_px": 32, "frames": 4}} | student,
            "optim": {"kind": "adamw", "lr": 1e-3},
            "train": {"steps": 5, "batch_size": 4},
        },
        "test",
    )


RESULTS = {
    "student": {
        "headline": "top-1 62.1% (95 % 55.0% to 68.7%)",
        "top1": 0.6214,
        "top1_interval": [0.5504, 0.6872],
        "top5": 0.9,
        "n": 200,
        "aggregation": "mean_probability",
        "confusion": [[1]],
        "protocol": {
            "data_set": "motion",
            "split": "split1",
            "part": "test",
            "coverage": {"scored": 200, "expected": 200},
            "frames": 4,
            "stride": 4,
            "size_px": 32,
            "clips": 2,
            "crops": 3,
        },
        "cost": {"parameters": 22356, "gmacs": 0.0123},
    },
    "environment": {"vidkd": "0.1.0", "packages": {"torch": "2.13.0"}, "git_commit": "abc123+"},
}


@pytest.fixture
def tapped():
    torch.manual_seed(0)
    return models.build("tiny16", 4).eval()


@pytest.fixture
def saved(tmp_path, tapped) -> Path:
    export.save_student(tmp_path / "run", tapped, run_of(), CLASSES, RESULTS)
    return tmp_path / "run"


def rewrite(path: Path, change):
    """Change the header of a safetensors file and leave its tensors as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])


class TestThereAndBack:
    @pytest.mark.parametrize("inner", ["", "student.safetensors"])
    @pytest.mark.parametrize("as_text", [False, True])
    def test_the_same_answers(self, saved, tapped, inner, as_text):
        path = saved / inner
        student = vidkd.load_student(str(path) if as_text else path)
        video = torch.randint(256, (2, 3, 4, 32, 32), dtype=torch.uint8)
        assert torch.equal(student(video), tapped(video).logits)
        assert torch.allclose(student(video / 255), tapped(video).logits, atol=1e-5)

    def test_what_it_says_of_itself(self, saved):
        student = vidkd.load_student(saved)
        assert isinstance(student, nn.Module)
        assert not any(module.training for module in student.modules())
        assert (student.network, student.classes, student.short) == ("tiny16", CLASSES, "hold")
        assert (student.clip.frames, student.clip.stride) == (8, 2)
        assert (student.view.frames, student.view.size_px) == (4, 32)

    def test_the_view_takes_all_frames_where_none_are_said(self, tmp_path, tapped):
        export.save_student(tmp_path, tapped, run_of(view={"size_px": 32}), CLASSES, None)
        assert vidkd.load_student(tmp_path).view.frames == 8
        assert export.read_card(tmp_path)["frames"] == 8

    def test_wrong_input(self, saved):
        with pytest.raises(ValueError, match=r"\[B, 3, T, H, W\], got \(4, 3, 32, 32\)"):
            vidkd.load_student(saved)(torch.zeros(4, 3, 32, 32))

    def test_float32_contiguous_and_nothing_but_the_network(self, tmp_path, tapped):
        export.save_student(tmp_path, tapped.half(), run_of(), CLASSES, None)
        tensors = safetensors.torch.load_file(tmp_path / "student.safetensors")
        assert set(tensors) == set(tapped.net.state_dict())
        assert {t.dtype for t in tensors.values()} == {torch.float32}

    def test_shared_weights(self, tmp_path):
        net = models.build("tiny16", 4)
        net.net.middle[0].weight = nn.Parameter(net.net.middle[0].weight.detach().transpose(3, 4))  # not contiguous
        net.net.middle[0].bias = net.net.early[0].bias  # tied
        export.save_student(tmp_path, net, run_of(), CLASSES, None)
        video = torch.rand(1, 3, 4, 32, 32)
        assert torch.equal(vidkd.load_student(tmp_path)(video), net.eval()(video).logits)

    def test_the_files(self, saved):
        assert sorted(p.name for p in saved.iterdir()) == [
            "MODEL_CARD.md",
            "classes.txt",
            "config.yaml",
            "student.safetensors",
        ]
        assert config_file.load(saved / "config.yaml") == run_of()
        assert (saved / "classes.txt").read_text().splitlines() == list(CLASSES)

    def test_the_same_again_is_the_same_file(self, saved, tapped):
        before = (saved / "student.safetensors").read_bytes()
        export.save_student(saved, tapped, run_of(), CLASSES, RESULTS)
        assert (saved / "student.safetensors").read_bytes() == before

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_modes_follow_the_umask(self, tmp_path, tapped, umask, mode):
        old = os.umask(umask)
        try:
            export.save_student(tmp_path, tapped, run_of(), CLASSES, None)
        finally:
            os.umask(old)
        assert (tmp_path / "student.safetensors").stat().st_mode & 0o777 == mode

    def test_any_reader_of_safetensors_sees_what_it_is(self, saved):
        with safetensors.safe_open(saved / "student.safetensors", "pt") as file:
            said = file.metadata()
        assert said["network"] == "tiny16"
        assert json.loads(said["classes"]) == list(CLASSES)
        assert json.loads(said["input"])["mean"] == [0.45] * 3

    def test_import_stays_light(self):
        code = "import sys, vidkd; assert 'torch' not in sys.modules; vidkd.load_student; assert 'torch' in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert not hasattr(vidkd, "load_teacher")


class TestModelCard:
    def test_the_protocol_line(self, saved):
        lines = (saved / "MODEL_CARD.md").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("**"))
        for part in ("top-1 62.1%", "55.0% to 68.7%", "motion, split1, test", "200 of 200", "4 x 4 frames at 32 px",
                     "2 x 3 views", "mean_probability", "22,356 parameters", "0.0123 GMACs"):  # fmt: skip
            assert part in line

    def test_figures_versions_and_how_to_use_it(self, saved):
        card = (saved / "MODEL_CARD.md").read_text()
        assert "| top1 | 0.6214 | 0.5504 to 0.6872 |" in card
        for part in ("torch 2.13.0", "abc123+", "vidkd.load_student", "vidkd.predict", "vidkd.train", "surfing"):
            assert part in card
        assert "confusion" not in card

    def test_without_results(self, tmp_path, tapped):
        export.save_student(tmp_path, tapped, run_of(), CLASSES, None)
        assert "Not evaluated; 22,356 parameters" in (tmp_path / "MODEL_CARD.md").read_text()


class TestNothingIsLost:
    def test_weights_that_are_not_finite_are_not_written(self, saved, tapped):
        before = (saved / "student.safetensors").read_bytes()
        with torch.no_grad():
            tapped.net.head.weight[0, 0] = float("nan")
        with pytest.raises(DataError, match=r"head\.weight is not finite"):
            export.save_student(saved, tapped, run_of(), CLASSES, None)
        assert (saved / "student.safetensors").read_bytes() == before

    def test_a_full_disk_leaves_the_old_student(self, saved, tapped, monkeypatch):
        before = (saved / "student.safetensors").read_bytes()

        def full(descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                export.save_student(saved, models.build("tiny16", 4), run_of(), CLASSES, None)
        assert (saved / "student.safetensors").read_bytes() == before
        vidkd.load_student(saved)


class TestRefused:
    """Every one is a DataError that names the file, soon."""

    def refuses(self, path, message):
        started = time.monotonic()
        with pytest.raises(DataError, match=message) as caught:
            vidkd.load_student(path)
        assert time.monotonic() - started < 20
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, VidkdError)

    def test_nothing_there(self, tmp_path):
        self.refuses(tmp_path / "no", "no such file")
        self.refuses(tmp_path, r"holds no student\.safetensors")

    @pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.3, 0.9, 0.99999])
    def test_cut_short(self, saved, share):
        path = saved / "student.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        self.refuses(saved, "cut short|not a safetensors file")

    def test_appended_to(self, saved):
        path = saved / "student.safetensors"
        path.write_bytes(path.read_bytes() + b"x")
        self.refuses(path, "bytes where")

    @pytest.mark.parametrize(
        "content",
        [b"hello, this is no tensor", b"\xff" * 100, b"\x00" * 64, struct.pack("<Q", 2) + b"[]",
         struct.pack("<Q", 9) + b'{"a": {}}', struct.pack("<Q", 40_000) + b"[" * 40_000],
        ids=["text", "ones", "zeros", "list", "entry", "deep"],
    )  # fmt: skip
    def test_not_safetensors(self, tmp_path, content):
        path = tmp_path / "student.safetensors"
        path.write_bytes(content)
        self.refuses(path, "not a safetensors file")

    def test_a_hundred_thousand_tensors(self, tmp_path):
        entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        meta = {"__metadata__": export._metadata(_card())}
        header = json.dumps(meta | {f"t{i}": entry for i in range(100_000)}).encode()
        path = tmp_path / "student.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        self.refuses(path, "not the weights of tiny16")

    def test_a_pickle_is_not_run(self, tmp_path):
        path = tmp_path / "student.safetensors"
        torch.save({"a": torch.ones(1)}, path)
        self.refuses(path, "not a safetensors file")

    def test_plain_weights(self, tmp_path, tapped):
        path = tmp_path / "student.safetensors"
        safetensors.torch.save_file(tapped.net.state_dict(), path)
        self.refuses(path, "not a student that vidkd saved")
        assert export.read_card(path) == {}

    def test_weights_of_another_network(self, saved):
        other = safetensors.torch.save(models.build("tiny4", 4).net.state_dict(), export._metadata(_card()))
        (saved / "student.safetensors").write_bytes(other)
        self.refuses(saved, r"not the weights of tiny16: .*\[4, 3, 3, 3, 3\], not \[16, 3, 3, 3, 3\].* and \d+ more")

    def test_a_network_that_is_not_here(self, saved):
        rewrite(saved / "student.safetensors", lambda h: h["__metadata__"].update(network="tiny17"))
        self.refuses(saved / "student.safetensors", "no network 'tiny17'; did you mean 'tiny16'")
        self.refuses(saved, "config.yaml speaks of tiny16, the weights are of tiny17")

    @pytest.mark.parametrize("options", ['{"depth": 3}', "[]", '{"num_classes": 9}'])
    def test_options_it_does_not_have(self, saved, options):
        rewrite(saved / "student.safetensors", lambda h: h["__metadata__"].update(options=options))
        self.refuses(saved / "student.safetensors", "cannot be built|damaged")

    def test_more_classes_than_outputs(self, saved):
        classes = json.dumps([*CLASSES, "one more"])
        rewrite(saved / "student.safetensors", lambda h: h["__metadata__"].update(classes=classes))
        self.refuses(saved / "student.safetensors", r"head\.weight is \[4, 32\], not \[5, 32\]")
        self.refuses(saved, r"classes\.txt has 4 classes, the weights were trained on 5")

    def test_another_normalisation(self, saved):
        def change(header):
            said = json.loads(header["__metadata__"]["input"])
            header["__metadata__"]["input"] = json.dumps(said | {"mean": [0.5, 0.5, 0.5]})

        rewrite(saved / "student.safetensors", change)
        self.refuses(saved, "it was trained for input")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("format", "vidkd student 99", "written as 'vidkd student 99'"),
            ("classes", "[1, 2", "damaged"),
            ("clip", "{}", "damaged"),
            ("short", "stop", "damaged"),
            ("hat", "1", "damaged"),
        ],
    )
    def test_metadata(self, saved, key, value, message):
        rewrite(saved / "student.safetensors", lambda h: h["__metadata__"].update({key: value}))
        self.refuses(saved, message)

    def test_a_lost_tensor_and_a_foreign_one(self, saved):
        path = saved / "student.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors["spare"] = tensors.pop("head.bias")
        path.write_bytes(safetensors.torch.save(tensors, export._metadata(_card())))
        self.refuses(saved, r"lacks head\.bias; has spare")

    def test_classes_in_another_order(self, saved):
        (saved / "classes.txt").write_text("".join(f"{name}\n" for name in reversed(CLASSES)))
        self.refuses(saved, "not the same ones in the same order")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_no_permission(self, saved):
        (saved / "student.safetensors").chmod(0)
        self.refuses(saved, "Permission denied")


def _card():
    return card.Card(
        network="tiny16",
        options={},
        classes=CLASSES,
        input=json.loads(json.dumps(export.asdict(models.build("tiny16", 4).input))),
        clip=run_of().data.clip,
        view=run_of().student.view,
        short="hold",
    )


def test_the_card_of_what_is_no_student(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert export.read_card(tmp_path / "weights.pt") == export.read_card(tmp_path) == {}
