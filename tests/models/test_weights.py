"""Weights: whole or not at all, from files that may be anything."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vidkd import models
from vidkd.errors import ConfigError, DataError
from vidkd.models import weights

State = dict[str, Tensor]


def small(num_classes: int = 4, seed: int = 0):
    torch.manual_seed(seed)
    return models.build("small_r3d", num_classes, width=4)


@pytest.fixture
def state() -> State:
    """Weights that no freshly made network has."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in small(seed=1).net.state_dict().items()}


@pytest.fixture
def file(state, tmp_path) -> Path:
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def assert_loaded(network, state: State) -> None:
    for name, tensor in network.net.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, check_dtype=False)


def refused(network, path: Path, match: str, **options) -> None:
    """DataError, and not one number of the network has changed."""
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    with pytest.raises(DataError, match=match) as raised:
        weights.load(network, path, **options)
    assert path.name in str(raised.value)
    assert_loaded(network, before)


def test_safetensors(file, state):
    network = small()
    account = weights.load(network, file)
    assert_loaded(network, state)
    assert set(account.loaded) == state.keys()
    assert not account.skipped + account.missing + account.mismatched
    assert account.classes is None
    assert str(account) == f"{len(state)} tensors from {file}"


def test_a_run_directory_holds_the_student(file, state):
    file.rename(file.with_name("student.safetensors"))
    network = small()
    weights.load(network, file.parent)
    assert_loaded(network, state)


def test_an_unfinished_run_directory_is_named(tmp_path):
    refused(small(), tmp_path, "holds no student.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pyth"])
@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.student.net."])
def test_wrapped_checkpoints(suffix, wrapper, prefix, state, tmp_path):
    content = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / f"weights{suffix}"
    torch.save(content if wrapper is None else {"epoch": 3, wrapper: content}, path)
    network = small()
    weights.load(network, path)
    assert_loaded(network, state)


def test_half_precision_is_widened(state, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in state.items()}, path)
    network = small()
    weights.load(network, path)
    assert network.net.get_submodule("head").weight.dtype == torch.float32
    torch.testing.assert_close(network.net.state_dict()["head.bias"], state["head.bias"], rtol=0.01, atol=0)


def test_a_missing_tensor(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    del state["stage2.0.residual.0.weight"]
    save_file(state, path)
    refused(small(), path, r"1 tensors are missing \(stage2.0.residual.0.weight\).*name and options")


def test_old_files_lack_the_count_of_batches(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, path)
    weights.load(small(), path)


def test_a_tensor_left_over(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state | {"attention.weight": torch.zeros(3)}, path)
    refused(small(), path, r"1 are not in the network \(attention.weight\)")
    refused(small(), path, "name and options", reset_head=True)


def test_another_width(file):
    torch.manual_seed(0)
    wider = models.build("small_r3d", 4, width=8)
    refused(wider, file, r"have another shape \(stem.0.weight: \[4, 3, 3, 5, 5\] in the file, \[8, 3, 3, 5, 5\]")


def test_another_network(file):
    refused(models.build("tiny4", 4), file, "weights of another network")


def test_another_head_is_refused_with_both_counts(file):
    refused(small(9), file, "head has 4 classes, the network's 9.*reset_head: true")


def test_a_new_head(file, state):
    network = small(9)
    head = network.net.get_submodule("head").weight.clone()
    account = weights.load(network, file, reset_head=True)
    torch.testing.assert_close(network.net.get_submodule("head").weight, head)
    torch.testing.assert_close(network.net.state_dict()["stem.0.weight"], state["stem.0.weight"])
    assert account.new_head
    assert str(account).endswith("a new head")
    assert not any(name.startswith("head.") for name in account.loaded)


def test_a_new_head_is_new_also_where_the_old_one_would_fit(file):
    network = small(4)
    head = network.net.get_submodule("head").weight.clone()
    weights.load(network, file, reset_head=True)
    torch.testing.assert_close(network.net.get_submodule("head").weight, head)


def test_kernels_of_another_length_say_which_adaptation_helps(tmp_path):
    flat, deep = models.build("mc3_18", 4), tmp_path / "r3d_18.safetensors"
    save_file(models.build("r3d_18", 4).net.state_dict(), deep)
    refused(flat, deep, "adapt: collapse")
    refused(flat, deep, "adapt: collapse", adapt="inflate")
    account = weights.load(flat, deep, adapt="collapse")
    assert len(account.collapsed) == 12  # the two convolutions of layer2 to layer4's two blocks each
    assert "12 kernels collapsed over time" in str(account)


def test_inflation_of_kernels_without_time(state, tmp_path):
    """A 2-D kernel, spread over time: its sum over time is the kernel itself."""
    path = tmp_path / "flat.safetensors"
    flat = {k: v.sum(2) if v.ndim == 5 and v.shape[2] == 3 else v for k, v in state.items()}
    save_file(flat, path)
    refused(small(), path, "adapt: inflate")
    network = small()
    account = weights.load(network, path, adapt="inflate")
    assert len(account.inflated) == 7
    stem = network.net.state_dict()["stem.0.weight"]
    torch.testing.assert_close(stem.sum(2), flat["stem.0.weight"])
    torch.testing.assert_close(stem[:, :, 0], stem[:, :, 2])


def test_unknown_adaptation(file):
    with pytest.raises(ConfigError, match="no adapt 'colapse'; did you mean 'collapse'"):
        weights.load(small(), file, adapt="colapse")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value, state, tmp_path):
    path = tmp_path / "weights.safetensors"
    state["head.bias"][1] = value
    save_file(state, path)
    refused(small(), path, r"1 tensors hold NaN, infinity.*head.bias")


def test_quantised_weights_are_not_taken_for_weights(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state | {"stem.0.weight": torch.ones(4, 3, 3, 5, 5, dtype=torch.int8)}, path)
    refused(small(), path, "numbers of another kind: stem.0.weight")


def test_classes_travel_in_the_metadata(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path, metadata={"classes": json.dumps(["run", "swim", "fly", "crawl"])})
    assert weights.load(small(), path).classes == ("run", "swim", "fly", "crawl")
    assert weights.load(small(9), path, reset_head=True).classes == ("run", "swim", "fly", "crawl")


@pytest.mark.parametrize(
    ("classes", "match"),
    [('["run", "swim"]', "names 2 classes, its head has 4"), ("run, swim", "JSON list"), ('["run", 2]', "JSON list")],
)
def test_classes_that_cannot_be_right(classes, match, state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path, metadata={"classes": classes})
    refused(small(), path, match)


def test_kinetics_has_400_classes_in_order():
    from torchvision.models.video import R3D_18_Weights

    assert list(weights.k400_classes()) == R3D_18_Weights.KINETICS400_V1.meta["categories"]


def header(length: int, content: bytes) -> bytes:
    return length.to_bytes(8, "little") + content


OVERRUN = b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'
NOT_SAFETENSORS = {
    "text": b"<html>404: not found</html>",
    "empty": b"",
    "header_bomb": header(2**62, b"{}"),
    "header_past_the_end": header(90_000_000, b"{}"),
    "not_json": header(4, b"abcd"),
    "nested": header(200_000, b"[" * 200_000),
    "tensor_past_the_end": header(len(OVERRUN), OVERRUN + b"\0" * 8),
}


@pytest.mark.parametrize("content", NOT_SAFETENSORS.values(), ids=NOT_SAFETENSORS)
def test_files_that_are_no_safetensors(content, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    refused(small(), path, "not a whole safetensors file")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated_safetensors(keep, file):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    refused(small(), file, "not a whole safetensors file")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_pt(keep, state, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(small(), path, "not a file of weights alone")


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_planted_call_is_never_made(legacy, state, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "weights.pt"
    torch.save({"state_dict": state, "extra": Planted(trace)}, path, _use_new_zipfile_serialization=not legacy)
    refused(small(), path, "not a file of weights alone")
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1, 2], {}, torch.zeros(3), {"epoch": 3, "lr": 0.1}, {"state_dict": {"a": "b"}}])
def test_pt_without_named_tensors(content, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    refused(small(), path, "tensors by name are expected")


def test_a_text_that_is_called_pt(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("see https://example.org/weights.pth")
    refused(small(), path, "not a file of weights alone")


def test_wrong_suffix_and_no_file(tmp_path):
    refused(small(), tmp_path / "absent.pt", "there is no such file")
    (tmp_path / "weights.npz").write_bytes(b"PK")
    refused(small(), tmp_path / "weights.npz", "not '.npz'")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto"])
def test_files_of_timm_fill_a_network_per_frame(name, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    original = timm.create_model(name)
    path = tmp_path / "timm.safetensors"
    save_file(original.state_dict(), path)
    network = models.build("frame2d", 4, backbone=name)
    refused(network, path, "reset_head: true")
    account = weights.load(network, path, reset_head=True)
    assert {name for name in network.net.state_dict() if not name.startswith("head.")} == set(account.loaded)
    assert account.skipped
    frames = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours = network.eval().net.get_submodule("backbone")(frames)[-2]
        theirs = original.eval().forward_intermediates(frames, intermediates_only=True)[-2]
    torch.testing.assert_close(ours, theirs)


def test_a_run_of_a_network_per_frame_loads_as_it_is(tmp_path):
    pytest.importorskip("timm")
    network = models.build("frame2d", 4)
    path = tmp_path / "student.safetensors"
    save_file(network.net.state_dict(), path)
    account = weights.load(models.build("frame2d", 4), tmp_path)
    assert set(account.loaded) == network.net.state_dict().keys()
