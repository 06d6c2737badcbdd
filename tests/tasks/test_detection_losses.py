"""Assignment, loss terms and soft-NMS, by hand."""

import math

import numpy as np
import pytest
import torch

from vidkd import annotations, models
from vidkd.tasks import _detection_losses as losses
from vidkd.tasks import _detections as detections
from vidkd.tasks import detection
from vidkd.tasks._base import Scored
from vidkd.types import Segments

K = 3


def test_locations_of_the_published_pyramid():
    sizes = losses.level_sizes(64, 126)
    assert sizes == (64, 32, 16, 8, 4, 2)
    centre = losses.centres(sizes, torch.device("cpu"))
    assert (centre[0].item(), centre[64].item(), centre[-1].item()) == (0.5 / 64, 0.5 / 32, 0.75)
    with pytest.raises(ValueError, match="no pyramid"):
        losses.level_sizes(64, 100)


def test_the_shortest_action_takes_a_location():
    segments = torch.tensor([[[0.0, 1.0], [0.2, 0.4], [0.0, 0.0]]])
    own = losses.assign(segments, torch.tensor([[2, 0, -1]]), torch.tensor([0.0, 0.3, 0.5]))
    assert own.label.tolist() == [[3, 1, 3]]
    assert own.segment[0, 1].tolist() == pytest.approx([0.2, 0.4])


def test_d5_of_equally_long_actions_the_first_takes_it():
    """THUMOS14 labels 361 segments twice (CliffDiving and Diving): one of the two is learned, always the same one."""
    segments = torch.tensor([[[0.2, 0.4], [0.2, 0.4]]])
    for labels in ([0, 2], [2, 0]):
        own = losses.assign(segments, torch.tensor([labels]), torch.tensor([0.3]))
        assert own.label.tolist() == [[labels[0] + 1]]


def test_outside_is_background():
    own = losses.assign(torch.tensor([[[0.2, 0.4]]]), torch.tensor([[1]]), torch.tensor([0.1, 0.41]))
    assert own.label.tolist() == [[0, 0]]
    assert not own.positive.any()
    none = losses.assign(torch.zeros(1, 1, 2), torch.tensor([[-1]]), torch.tensor([0.0]))
    assert none.label.tolist() == [[0]]


def test_focal_loss_by_hand():
    logits = torch.tensor([[[0.0], [math.log(3)]]])  # 1/4, 3/4
    assert losses.focal_loss(logits, torch.tensor([[1]])).item() == pytest.approx(
        -0.75 * 0.25**2 * math.log(0.75), rel=1e-4
    )
    assert losses.focal_loss(logits, torch.tensor([[0]])).item() == pytest.approx(
        -0.25 * 0.75**2 * math.log(0.25), rel=1e-4
    )


def test_segments_from_reach_and_refinement():
    reach, centre = torch.tensor([[[4.0], [12.0]]]), torch.tensor([0.5])
    assert losses.coarse_segments(reach, centre, 64)[0, 0].tolist() == [0.5 - 4 / 64, 0.5 + 12 / 64]
    moved = losses.refined_segments(reach, torch.tensor([[[0.5], [-0.25]]]), centre, 64)  # by 4 and by -2 frames
    assert moved[0, 0].tolist() == [0.5 - 8 / 64, 0.5 + 10 / 64]


def test_labels_of_boundaries():
    """64 frames; an action of 10 frames has boundaries of 2, one of 40 frames of 4."""
    segments = torch.tensor([[[20 / 64, 30 / 64], [10 / 64, 50 / 64], [0.0, 0.0]]])
    start, end = losses.boundary_labels(segments, torch.tensor([[0, 1, -1]]), 64)[0]
    assert start.nonzero().flatten().tolist() == [8, 9, 10, 11, 19, 20]
    assert end.nonzero().flatten().tolist() == [29, 30, 48, 49, 50, 51]


def test_d12_a_narrow_boundary_comes_to_the_finest_level():
    sparse = torch.zeros(1, 1, 64)
    sparse[0, 0, 30] = 1
    assert losses._shorter(sparse, 16, pooled=True).sum() == 1
    assert losses._shorter(sparse, 16, pooled=False).sum() == 0  # every fourth loses it


def perfect(segments, label, frames=64, finest=16, locations=28):
    """What a detector would have to say."""
    centre = losses.centres(losses.level_sizes(finest, locations), torch.device("cpu"))
    own = losses.assign(segments, label, centre)
    reach = torch.stack([centre - own.segment[..., 0], own.segment[..., 1] - centre], dim=1) * frames
    reach = torch.where(own.positive[:, None], reach, 1.0)
    logits = 50 * torch.nn.functional.one_hot(own.label, K + 1).float().transpose(1, 2)
    strength = losses.boundary_labels(segments, label, frames)
    level = losses._shorter(strength, finest, pooled=True)
    return {
        "logits": logits, "coarse_logits": logits, "reach": reach, "refinement": torch.zeros_like(reach),
        "quality": torch.full((len(segments), 1, locations), 50.0), "frame_boundary": strength,
        "level_boundary": torch.cat([level, level], dim=1),
    }  # fmt: skip


SEGMENTS, LABEL = torch.tensor([[[0.1, 0.4], [0.5, 0.95]]]), torch.tensor([[0, 2]])


def test_perfect_answers_cost_nothing():
    for name, term in losses.losses(perfect(SEGMENTS, LABEL), SEGMENTS, LABEL, 0.5, True).items():
        assert term.item() == pytest.approx(0, abs=1e-4), name


def test_refining_repairs_what_the_coarse_segment_missed():
    """The refinement that its loss asks for makes the refined segment the action."""
    said = perfect(SEGMENTS, LABEL)
    exact = said["reach"]
    said["reach"] = exact + torch.tensor([[1.5], [-1.0]])
    said["refinement"] = (exact - said["reach"]) / (0.5 * said["reach"].sum(1, keepdim=True))
    terms = losses.losses(said, SEGMENTS, LABEL, 0.5, True)
    assert terms["location"].item() > 0.01
    assert terms["refined_location"].item() == pytest.approx(0, abs=1e-5)
    assert terms["quality"].item() == pytest.approx(0, abs=1e-3)


def test_d11_too_coarse_segments_are_background_to_the_refined_class():
    """From a tIoU of one half, unless a configuration says another; AFSD's code has 0 there."""
    assert detection.Config(kind="detection").refined_from == 0.5
    said = perfect(SEGMENTS, LABEL)
    said["reach"] = said["reach"] * 4
    assert losses.losses(said, SEGMENTS, LABEL, 0.5, True)["refined_class"].item() > 1
    assert losses.losses(said, SEGMENTS, LABEL, 0.0, True)["refined_class"].item() == pytest.approx(0, abs=1e-4)


def test_what_the_refined_class_is_divided_by():
    """Some 20 of 28 locations stand for an action: while none is good enough, AFSD's form weighs all against 1."""
    said = perfect(SEGMENTS, LABEL)
    said["reach"] = said["reach"] * 4
    n = int(losses.assign(SEGMENTS, LABEL, losses.centres((16, 8, 4), torch.device("cpu"))).positive.sum())
    assert n > 10
    terms = {
        over: losses.losses(said, SEGMENTS, LABEL, 0.5, True, over)["refined_class"] for over in ("actions", "refined")
    }
    assert terms["refined"].item() == pytest.approx(n * terms["actions"].item())
    said["reach"] = said["reach"] / 4  # all are good: the two are one
    said["logits"] = torch.zeros_like(said["logits"])
    first, second = (
        losses.losses(said, SEGMENTS, LABEL, 0.5, True, o)["refined_class"] for o in ("actions", "refined")
    )
    assert first == second > 0


def test_d10_the_target_of_quality_is_detached():
    said = perfect(SEGMENTS, LABEL)
    said["reach"] = (said["reach"] + 1).requires_grad_()
    assert not losses.losses(said, SEGMENTS, LABEL, 0.5, True)["quality"].requires_grad


def test_no_action_at_all():
    segments, label = torch.zeros(2, 1, 2), torch.full((2, 1), -1)
    said = perfect(segments, label)
    said = {name: value.requires_grad_() for name, value in said.items()}
    terms = losses.losses(said, segments, label, 0.5, True)
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["location"] == terms["quality"] == terms["refined_location"] == 0


def test_one_batch_is_learned_by_heart():
    torch.manual_seed(0)
    network = models.build("detector", K, backbone="tiny4", frames=32, size_px=16, width=32, levels=4)
    video = torch.randint(0, 256, (2, 3, 32, 16, 16), dtype=torch.uint8)
    segments = torch.tensor([[[0.1, 0.4], [0.5, 0.95]], [[0.3, 0.8], [0.0, 0.0]]])
    label = torch.tensor([[0, 2], [1, -1]])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    totals = []
    for _ in range(60):
        view = network(video)
        terms = losses.losses({"logits": view.logits, **view.taps}, segments, label, 0.5, True)
        total = sum(term * (10 if "location" in name else 1) for name, term in terms.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.35 * totals[0]


def videos(rng, n=8, length=32, classes=4):
    """Features in which one of `classes` channels is louder while an action lasts, and the truth of them."""
    x = 0.5 * torch.randn(n, 8, length, 1, 1, generator=rng)
    segments, label = torch.zeros(n, 2, 2), torch.randint(0, classes, (n, 2), generator=rng)
    for i in range(n):
        start = torch.randint(0, 6, (2,), generator=rng) + torch.tensor([1, 17])
        end = start + torch.randint(4, 10, (2,), generator=rng)
        for a, b, k in zip(start.tolist(), end.tolist(), label[i].tolist(), strict=True):
            x[i, k, a:b] += 1.5
        segments[i] = torch.stack([start, end], dim=1) / length
    return x, segments, label


@pytest.fixture(scope="module")
def learned():
    """A detector that has seen 60 batches of such features, none twice."""
    torch.manual_seed(0)
    options = {"backbone_options": {"channels": 8, "width": 32}, "width": 32, "levels": 4}
    network = models.build("detector", 4, backbone="sequence", frames=32, size_px=1, **options)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(1)
    for _ in range(60):
        x, segments, label = videos(rng)
        view = network(x)
        terms = losses.losses({"logits": view.logits, **view.taps}, segments, label, 0.5, True, "actions")
        optimizer.zero_grad()
        sum(term * (10 if "location" in name else 1) for name, term in terms.items()).backward()
        optimizer.step()
    return network.eval()


def test_new_videos_are_detected_with_the_right_class(learned, tmp_path):
    """Not places alone: with the classes at chance, mAP could not be above some 0.3."""
    names = tuple("abcd")
    with torch.no_grad():
        x, segments, label = videos(torch.Generator().manual_seed(2), n=40)
        view = learned(x)
    rows = [
        (f"v{i}", *(32 * s).tolist(), names[k]) for i in range(40) for s, k in zip(segments[i], label[i], strict=True)
    ]
    annotations.write(tmp_path / "segments.csv", Segments.of(rows))
    task = detection.Task(detection.Config(kind="detection", bootstrap=0), names, tmp_path)
    kept = task.keep(view, {"span_s": torch.tensor([[0.0, 32.0]], dtype=torch.float64).expand(40, 2)})
    scored = Scored([f"v{i}" for i in range(40)], torch.zeros(40), {key: list(t[:, None]) for key, t in kept.items()})
    figures = task.results(scored)
    assert figures["map"] > 0.7  # seen: 0.87
    assert figures["ar_10"] > 0.5


# From answers to detections


def test_scores_and_segments_by_hand():
    """Softmax 1/4 and 3/4 of the refined classes, 1/2 and 1/2 of the coarse ones, of a quality of 3/4."""
    said = {
        "logits": torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]]),
        "coarse_logits": torch.zeros(1, 2, 2),
        "quality": torch.tensor([[[math.log(3), 0.0]]]),
        "reach": torch.tensor([[[8.0, 4.0], [4.0, 20.0]]]),
        "refinement": torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]]),  # of 6 frames: 3 to the right at both ends
        "frame_boundary": torch.zeros(1, 2, 32),
        "level_boundary": torch.zeros(1, 4, 2),
    }
    segments, scores = detections.decode(said)
    assert scores[0, :, 0].tolist() == pytest.approx([5 / 8 * 3 / 4, 1 / 2 * 1 / 2])
    assert segments[0].tolist() == [[3 / 32, 15 / 32], [20 / 32, 1.0]]  # the second would end behind the clip


def nms(boxes, sigma, most=100):
    places, scores = np.array([b[:2] for b in boxes], float), np.array([b[2] for b in boxes])
    found, worth = detections.soft_nms(places, scores, sigma, most)
    return [(*place, round(float(score), 3)) for place, score in zip(found.tolist(), worth, strict=True)]


THREE = [(0, 10, 0.9), (5, 15, 0.8), (20, 30, 0.7)]


def test_d3_soft_nms_of_one_box_is_that_box():
    assert nms([(0, 10, 0.9)], 0.5) == [(0, 10, 0.9)]


@pytest.mark.parametrize(("sigma", "middle"), [(0.5, 0.641), (0.1, 0.263), (0.01, None)])
def test_soft_nms_by_hand(sigma, middle):
    found = nms(THREE, sigma)
    kept = [b for b in found if b[0] == 5]
    assert [b for b in found if b[0] != 5] == [(0, 10, 0.9), (20, 30, 0.7)]
    assert kept == ([] if middle is None else [(5, 15, middle)])


def test_soft_nms_takes_no_more_than_it_may_and_changes_nothing_it_was_given():
    places, scores = np.array([b[:2] for b in THREE], float), np.array([b[2] for b in THREE])
    before = scores.copy()
    assert len(detections.soft_nms(places, scores, 0.5, 2)[1]) == 2
    assert (scores == before).all()


def test_windows_of_a_video_are_put_together():
    """The same action in two windows, seen from two places; and another class at the same time."""
    span = torch.tensor([[0.0, 8.0], [4.0, 12.0]], dtype=torch.float64)
    shares = torch.tensor([[[0.5, 0.75], [0.0, 0.1]], [[0.0, 0.25], [0.5, 0.5]]])
    places = detections.in_seconds(shares, span)
    assert places[:, 0].tolist() == [[4, 6], [4, 6]]
    scores = torch.tensor([[[0.9, 0.3], [0.005, 0.0]], [[0.8, 0.0], [0.9, 0.9]]])
    found, label, worth = detections.of_video(places, scores, 0.5, 0.01, 10)
    assert found.tolist() == [[4, 6]] * 3  # what is below the threshold, or has no length, is gone
    assert label.tolist() == [0, 1, 0]
    assert worth.tolist() == pytest.approx([0.9, 0.3, 0.8 * math.exp(-2)])
