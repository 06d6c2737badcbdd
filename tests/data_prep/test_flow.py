"""`data_prep flow`: what moves where, kept beside the videos it was computed from, and seen by networks as such."""

import json

import pytest
import torch

import tiny_set
from conftest import REPOSITORY
from data_prep import __main__ as command
from vidkd import config_file, distiller, models, train
from vidkd.config import Augment, ClipSpec, Data, ViewSpec
from vidkd.data import clips, flow, index, show, transforms
from vidkd.data.decode import open_video
from vidkd.errors import ConfigError, DataError
from vidkd.models import weights
from vidkd.report import pictures

pytest.importorskip("cv2", reason="pip install 'vidkd[flow]'")
STUDENT = REPOSITORY / "configs/motion_student.yaml"
SMALL = ("data.workers=0", "train.batch_size=4", "train.epochs=null", "train.steps=2", "optim.warmup=null",
         "data.clip.frames=8", "data.clip.stride=1", "data.augment.color_jitter=0")  # fmt: skip
SIZE = 64


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    videos = tiny_set.make(root / "videos", train=4, test=4, size=SIZE, flip="keeps_labels")
    assert (
        command.main(["flow", "--root", str(videos), "--out", str(root / "flow"), "--workers", "0", "--bound", "8"])
        == 0
    )
    return videos, root / "flow"


def test_the_same_videos_labels_and_splits(sets):
    videos, flow = map(index.read, sets)
    assert flow.modality == "flow" and videos.modality == "rgb"
    same = ["frames", "fps", "width", "height", "label", "group", "status", "split1"]
    assert flow.table.select(same).equals(videos.table.select(same))
    assert flow.part("split1", "test").names() == videos.part("split1", "test").names()
    assert (sets[1] / "segments.csv").read_bytes() == (sets[0] / "segments.csv").read_bytes()
    assert command.main(["verify", str(sets[1]), "--deep"]) == 0


@pytest.mark.parametrize("i", range(4))
def test_it_shows_which_way_the_square_goes(sets, i):
    """2 px a frame out of at most 8: 255 * (2 + 8) / 16 = 159, or 96 the other way."""
    part = index.read(sets[1]).part("split1", "train")
    with open_video(part[i].path) as video:
        seen = video.get([3])[0].float()
    assert seen.shape == (2, SIZE, SIZE)
    dy, dx = tiny_set.STEPS[i]
    along, across = (1, 0) if dy else (0, 1)  # channel 0 is x
    sign = dy or dx
    assert (sign * (seen[along] - 127.5)).max() == pytest.approx(32, abs=8)
    assert (seen[along] - 127.5).abs().mean() > (seen[across] - 127.5).abs().mean()


def test_mirrored_flow_goes_the_other_way(sets):
    mirrored = transforms.Drawn((0, 0, SIZE, SIZE), flip=True)
    flow = torch.randint(0, 256, (5, 2, SIZE, SIZE), dtype=torch.uint8)
    seen = transforms.view(flow, mirrored, SIZE, modality="flow")
    assert torch.equal(seen[:, 0], 255 - flow[:, 0].flip(-1)) and torch.equal(seen[:, 1], flow[:, 1].flip(-1))


def test_a_flipped_clip_is_mirrored_flow(sets):
    part = index.read(sets[1]).part("split1", "train")

    def clip(flip):
        run = config_file.load(STUDENT, [*SMALL, f"data.root={sets[1]}", f"data.augment.flip={flip}"])
        return clips.TrainClips(part, run.data, run.views(), run_seed=0).clip(0, 0).views["student"][0]

    plain, flipped = clip(0.0), clip(1.0)
    assert plain.shape == (2, 8, 32, 32)
    assert torch.equal(flipped[0], 255 - plain[0].flip(-1)) and torch.equal(flipped[1], plain[1].flip(-1))


def test_a_student_learns_from_flow_and_says_so(sets, tmp_path):
    words = [*SMALL, f"data.root={sets[1]}", f"out={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"small_r3d takes RGB, and is shown optical flow: set its options\.modality"):
        train.train(config_file.load(STUDENT, words), resume="never")
    assert not (tmp_path / "run" / "config.yaml").exists()  # known before anything is begun, or deleted
    outcome = train.train(
        config_file.load(STUDENT, [*words, "student.options.modality=flow", f"out={tmp_path / 'two'}"])
    )
    assert outcome["student"]["n"] == 4
    with pytest.raises(
        ConfigError, match=r"holds optical flow, which has no colours: leave out data\.augment\.color_jit"
    ):
        train.train(config_file.load(STUDENT, [*words, "data.augment.color_jitter=0.3"]))


def test_kernels_for_colours_are_averaged_for_flow(tmp_path):
    def built(*words):
        run = config_file.load(STUDENT, ["student.name=i3d_2d", "student.options={}", *words])
        return distiller.build_network(run.student, 8, 8)

    rgb, _ = built()
    file = tmp_path / "rgb.pt"
    torch.save(rgb.net.state_dict(), file)
    flow, account = built("student.options.modality=flow", f"student.weights={file}", "student.adapt=flow")
    assert isinstance(account, weights.Account) and account.averaged == ("Conv3d_1a_7x7.conv3d.weight",)
    own, source = flow.net.state_dict()[account.averaged[0]], rgb.net.state_dict()[account.averaged[0]]
    assert own.shape[1] == 2 and torch.allclose(own[:, 0], source.mean(1)) and torch.equal(own[:, 0], own[:, 1])
    with pytest.raises(DataError, match=r"1 have another shape"):
        built("student.options.modality=flow", f"student.weights={file}")


def test_a_student_of_flow_without_time_starts_from_rgb_weights_too(tmp_path):
    """Colours averaged and kernels over time summed, at once: for a student that is not to start from its teacher."""
    torch.manual_seed(0)
    source = models.build("i3d", 8)
    torch.save(source.net.state_dict(), tmp_path / "rgb.pt")
    own = models.build("i3d_2d", 8, modality="flow")
    account = weights.load(own, tmp_path / "rgb.pt", adapt="flow_collapse")
    stem = "Conv3d_1a_7x7.conv3d.weight"
    assert account.averaged == (stem,) and len(account.collapsed) == 20 and stem in account.collapsed
    expected = source.net.state_dict()[stem].mean(1).sum(1)
    for channel in range(2):
        torch.testing.assert_close(own.net.state_dict()[stem][:, channel, 0], expected)


@pytest.mark.parametrize("indices", [range(12), [0, 6, 7, 11], [11], [3, 9]])
def test_flow_as_it_is_read_is_that_which_was_stored(sets, indices):
    """But for its compression; whichever frames are asked for, the last of the video among them."""
    videos, stored = (index.read(root).part("split1", "train")[0].path for root in sets)
    with open_video(videos) as video, open_video(stored) as kept:
        assert video.frames == 12
        made = flow.flow_of(video, flow.Settings(bound_px=8))
        seen, expected = made.get(list(indices)), kept.get(list(indices))
        assert (made.frames, made.fps, made.width) == (video.frames, video.fps, SIZE)
    assert seen.shape == expected.shape
    assert (seen.float() - expected.float()).abs().mean() < 2


def test_flow_in_smaller_pictures_is_as_much_slower(sets):
    part = index.read(sets[0]).part("split1", "train")
    with open_video(part[0].path) as video:
        whole, half = (flow.flow_of(video, flow.Settings(bound_px=8), side).get([3])[0].float() for side in (None, 32))
    assert half.shape == (2, 32, 32)
    fastest = [(seen - 127.5).abs().flatten().topk(20).values.mean().item() for seen in (whole, half)]
    assert fastest[1] == pytest.approx(fastest[0] / 2, rel=0.3)


def test_what_is_no_source_of_flow(sets, tmp_path, capsys):
    assert command.main(["flow", "--root", str(sets[1]), "--out", str(tmp_path / "again")]) == 2
    assert "holds optical flow already" in capsys.readouterr().err
    assert command.main(["flow", "--root", str(sets[0]), "--out", str(tmp_path / "x"), "--bound", "0"]) == 2
    card = json.loads((sets[1] / "dataset.json").read_text())
    assert card["modality"] == "flow"


def test_it_can_be_looked_at(sets, tmp_path):
    """The square is red where it goes right, and all around it is pale."""
    sheet = tmp_path / "sheet.png"
    assert command.main(["show", str(sets[1]), "--sheet", str(sheet), "--videos", "4", "--frames", "3"]) == 0
    data_set = index.read(sets[1])
    part = data_set.part("split1", "train")
    data = Data(root=sets[1], clip=ClipSpec(frames=4, stride=2), augment=Augment(flip=0, crop_scale=None))
    figure = show.draw(data_set, part, data, {"student": ViewSpec(size_px=SIZE)}, n=1, epoch=0)
    assert "red moves right" in figure.get_suptitle()
    shown = torch.tensor(figure.axes[0].images[0].get_array()).float()  # video 0 goes right
    assert shown.shape == (SIZE, SIZE, 3)
    strongest = (255 - shown).sum(2).flatten().topk(50).indices
    red, green, blue = shown.flatten(0, 1)[strongest].mean(0).tolist()
    assert red > green + 60 and red > blue + 60
    video = torch.randint(0, 256, (1, 2, 4, 16, 16), dtype=torch.uint8)
    assert [picture.size for picture in pictures.frames(video)] == [(16, 16)] * 4
