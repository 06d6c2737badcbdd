"""Every way in which the files of a student can be wrong."""

import json
import os
import struct
import time

import pytest
import safetensors.torch
import torch

import vidkd
from students import CLASSES, a_card, rewrite
from vidkd import export, models
from vidkd.errors import DataError, VidkdError


class TestRefused:
    """Every one is a DataError that names the file, soon."""

    def refuses(self, path, message):
        started = time.process_time()
        with pytest.raises(DataError, match=message) as caught:
            vidkd.load_student(path)
        assert time.process_time() - started < 20
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
        meta = {"__metadata__": export._metadata(a_card())}
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
        other = safetensors.torch.save(models.build("tiny4", 4).net.state_dict(), export._metadata(a_card()))
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
        path.write_bytes(safetensors.torch.save(tensors, export._metadata(a_card())))
        self.refuses(saved, r"lacks head\.bias; has spare")

    def test_classes_in_another_order(self, saved):
        (saved / "classes.txt").write_text("".join(f"{name}\n" for name in reversed(CLASSES)))
        self.refuses(saved, "not the same ones in the same order")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_no_permission(self, saved):
        (saved / "student.safetensors").chmod(0)
        self.refuses(saved, "Permission denied")
