"""What the plots of a report draw."""

import re

import pytest

from vidkd.report import charts, svg


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (svg.Scale(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (svg.Scale(0.5, 0.75), [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]),
        (svg.Scale(0.2, 3, log=True), [0.2, 0.5, 1, 2]),
        (svg.Scale(0.5, 300, log=True), [1, 10, 100]),
    ],
)
def test_ticks_are_round(scale, ticks):
    assert scale.ticks() == pytest.approx(ticks)
    assert all(0 <= scale(v) <= 100 + 1e-6 for v in ticks)


def test_labels_keep_apart():
    places = charts._apart([10, 11, 12, 90], 15, 100)
    assert places == [10, 25, 40, 90]
    assert charts._apart([95, 97], 15, 100)[-1] <= 100


def test_curves_leave_out_what_is_not_a_number():
    drawn = charts.curves("loss", [[(1.0, float("nan")), (2.0, 1.0), (3.0, 0.5)]], "baseline")
    assert "nan" not in drawn
    assert charts.curves("loss", [[(1.0, float("inf"))]], "baseline") == ""


def test_one_step_is_a_curve_too():
    assert "nan" not in charts.curves("loss", [[(0.0, 2.0)]], "baseline")


def test_many_classes_stay_small():
    k = 101
    dense = [[1.0 + 50 * (i == j) for j in range(k)] for i in range(k)]
    assert len(charts.confusion(dense, [f"class {i}" for i in range(k)], "")) < 1_500_000
    rows = [charts.Dots(f"class {i}", [("baseline", 0.2), ("teacher", 0.9)]) for i in range(k)]
    assert len(charts.dot_rows(rows, "")) < 200_000


def test_long_curves_are_thinned():
    drawn = charts.curves("loss", [[(float(i), 1 / (i + 1)) for i in range(5000)]], "baseline")
    points = re.findall(r'points="([^"]*)"', drawn)
    assert all(len(p.split()) <= charts.POINTS for p in points)


def test_the_front_is_what_no_other_beats():
    """By hand: b is dearer than a and worse; d is dearer than c and no better."""
    places = {"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.7), "d": (4, 0.7)}
    points = [charts.Point(name, "distilled", x, y) for name, (x, y) in places.items()]
    assert [p.name for p in charts.front(points, "less")] == ["a", "c"]
    assert [p.name for p in charts.front(points, "more")] == ["d"]
    drawn = charts.scatter(points, "", "GMACs", "less")
    assert drawn.count('class="front"') == 1


def test_of_a_crowd_only_the_front_the_teacher_and_the_baseline_are_named():
    crowd = [charts.Point(f"row {n}", "distilled", 10 + n, 0.3) for n in range(charts.NAMED)]
    points = [charts.Point("best", "distilled", 9, 0.4), charts.Point("alone", "baseline", 30, 0.2),
              charts.Point("big", "teacher", 99, 0.6), *crowd]  # fmt: skip
    drawn = charts.scatter(points, "", "GMACs", "less")
    assert all(f">{name}</text>" in drawn for name in ("best", "alone", "big")) and ">row 0</text>" not in drawn
    assert all(f"<title>{p.name}: " in drawn for p in points)
    assert all(f">{p.name}</text>" in charts.scatter(points[: charts.NAMED], "", "GMACs", "less") for p in points[:8])
