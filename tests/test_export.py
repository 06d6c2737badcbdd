"""A student as files: there and back. How such files can be wrong is in test_export_refused.py."""

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

import vidkd
from students import CLASSES, RESULTS, run_of
from vidkd import config_file, export, models
from vidkd.errors import DataError


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


def test_the_card_of_what_is_no_student(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert export.read_card(tmp_path / "weights.pt") == export.read_card(tmp_path) == {}
