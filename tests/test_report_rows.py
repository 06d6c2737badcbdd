"""What the page of a bench says of its rows: probes, teachers, intervals, sizes, classes."""

import json
from pathlib import Path

from fake_runs import probed
from report_pages import written
from vidkd.report import gains, material, page


def test_probes_say_how_much_of_the_gain_is_motion(own_grid):
    assert "<h2>Motion or appearance</h2>" not in written(own_grid)
    for seed in range(3):
        alone = {"as_is": 0.40, "shuffled": 0.35, "static": 0.30}
        probed(own_grid / "student_alone" / f"seed{seed}", alone, {})
        probed(own_grid / "kd_fmd" / f"seed{seed}", {"as_is": 0.60, "shuffled": 0.45, "static": 0.35}, {24: 0.55})
    text = written(own_grid)
    assert "Of the +20.0 points that KD &amp; &lt;fmd&gt; has over student alone, +10.0 are left" in text
    assert "+5.0 when one stands still: about 75 % of the gain needs motion." in text
    assert "4 frames of 16 px: 60.0%; 4 frames of 24 px: 55.0%" in text


def test_a_teacher_of_the_same_network_has_as_many_parameters():
    teacher, student = {"parameters": 12_308_789, "gmacs": 6.98}, {"parameters": 12_308_789, "gmacs": 0.92}
    assert gains.cheaper(teacher, student) == "has as many parameters and needs 7.6 times as many GMACs as the student."


def changed(folder: Path, change) -> None:
    """Rewrite bench.json by `change`, and every results.json by it too where that has a teacher."""
    path = folder / "bench.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_of_two_teachers_the_one_that_taught_a_row_is_named(own_grid):
    """Both are of one network, and only their weights tell which is which."""

    def two(said):
        said["bench"]["first"].append(said["bench"]["first"][0] | {"name": "second"})
        plain = next(line for line in said["rows"] if line["row"] == "teacher")
        plain["protocol"]["weights_sha256"] = "a"
        other = {"row": "second", "top1": 0.99, "parameters": 99 * 11_000}
        said["rows"].append(plain | other | {"protocol": plain["protocol"] | {"weights_sha256": "b"}})
        for line in said["rows"]:
            line |= {"recovered": 0.5, "recovered_low": 0.4, "recovered_high": 0.6} if "gain" in line else {}

    changed(own_grid, two)
    for row, weights in (("kd_fmd", "b"), ("weak", "a")):
        for path in own_grid.glob(f"{row}/seed*/results.json"):
            results = json.loads(path.read_text())
            results["teacher"]["protocol"]["weights_sha256"] = weights
            path.write_text(json.dumps(results))
    m, text = material.read(own_grid), written(own_grid)
    assert {row: teacher.name for row, teacher in m.teachers.items()} == {"KD & <fmd>": "second", "weak": "teacher"}
    assert "Its teacher, “second”, 99.0%, has 99 times as many parameters" in text
    assert "second, top-1</span>" in text
    section = text[text.index("<h2>Accuracy by class</h2>") : text.index("<h2>What is taken for what</h2>")]
    assert "</svg> second</span>" in section and "</svg> teacher</span>" not in section
    assert "40.0 to 60.0</small><small>of second</small>" in text
    assert "40.0 to 60.0</small><small>of teacher</small>" in text
    for path in own_grid.glob("weak/seed*/results.json"):
        path.write_text(path.read_text().replace('"weights_sha256": "a"', '"weights_sha256": "b"'))
    text = written(own_grid)
    assert "<small>of " not in text
    assert "The gap is that to “second”, which taught every distilled row." in text


def test_with_one_teacher_none_is_named(own_grid):
    share = {"recovered": 0.5, "recovered_low": 0.4, "recovered_high": 0.6}
    changed(own_grid, lambda said: [line.update(share) for line in said["rows"] if "gain" in line])
    text = written(own_grid)
    assert "40.0 to 60.0</small>" in text and "<small>of " not in text
    assert "The teacher, " in text and "Its teacher" not in text


def test_the_interval_is_said_to_be_of_its_kind(own_grid):
    text = written(own_grid)
    assert "Intervals of rows: bootstrap over seeds and videos." in text and "Wilson" not in text
    changed(own_grid, lambda said: said["bench"].update(first=[]))  # its teacher is then a single network's figures
    assert "Intervals of a single network: Wilson." in written(own_grid)
    assert "bootstrap over" not in written(own_grid / "weak" / "seed0")


def test_a_teacher_that_was_not_trained_here_has_a_line_of_its_own(own_grid):
    changed(own_grid, lambda said: said["bench"].update(first=[]))
    m = material.read(own_grid)
    assert [row.name for row in m.lines if row.role == "teacher"] == ["teacher"]
    assert m.teachers["weak"] is m.teachers["KD & <fmd>"] is m.lines[0]
    for path in own_grid.glob("weak/seed*/results.json"):
        results = json.loads(path.read_text())
        results["teacher"]["protocol"]["network"] = "another"
        path.write_text(json.dumps(results))
    m = material.read(own_grid)
    assert [row.name for row in m.lines if row.role == "teacher"] == ["teacher", "teacher 2"]


def test_sizes_of_different_networks_are_no_surface(own_grid):
    title = "Trained and scored at each size: alone, tiny4"

    def sized(network):
        def change(said):
            for line in said["rows"]:
                if line["row"] in ("student alone", "weak"):
                    line["protocol"] |= {"options": {}, "size_px": 16 if line["row"] == "weak" else 32}
                    line["protocol"]["network"] = network if line["row"] == "weak" else "tiny4"
            for raw in said["bench"]["rows"]:
                raw["baseline"] = raw["name"] if raw["name"] == "weak" else "student alone"

        changed(own_grid, change)
        return page.page(material.read(own_grid))[0]

    assert title in sized("tiny4")
    assert "Trained and scored at each size" not in sized("tiny16")


def test_what_a_detector_has_by_class_is_average_precision(own_grid, capsys):
    for path in own_grid.rglob("results.json"):
        results = json.loads(path.read_text())
        for who in {"student", "teacher"} & results.keys():
            del results[who]["confusion"]
            results[who]["per_class"] = [{"class": "jump", "n": 3, "ap": 0.625}, {"class": "run", "n": 0, "ap": None}]
        path.write_text(json.dumps(results))
    for path in own_grid.rglob("*_predictions.csv"):
        path.write_text('"video","start_s","end_s","label","score"\n"a",0.1,1.0,"jump",0.5\n')
    text = written(own_grid)
    assert "Average precision. Mean over seeds" in text
    assert "jump: 62.5%" in text
    said = capsys.readouterr().out
    assert "not as vidkd writes it" not in said
    for title in ("Gain by class", "Videos fixed and broken by distillation"):
        assert f"left out: {title}: a detector answers with stretches of time" in said


def test_gains_by_class_have_intervals(grid_and_set):
    text = page.page(material.read(grid_and_set[0]))[0]
    section = text[text.index("<h2>Gain by class</h2>") : text.index("<h2>Accuracy by class</h2>")]
    assert section.count('<line class="whisker distilled"') == 3 * 4  # a line and two ends, for each of four classes
    assert "right (10)" in section
