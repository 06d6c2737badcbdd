"""Every promise that this suite answers for has a test by its name, where docs/reliability.md says."""

import re

import pytest

from conftest import REPOSITORY

PROMISES = [f"{letter}{number}" for letter, count in zip("ABDEFH", (9, 5, 3, 5, 5, 4), strict=True)
            for number in range(1, count + 1)] + ["C3", "C4", "C5", "G1", "G2", "G3", "G9"]  # fmt: skip


@pytest.mark.parametrize("promise", PROMISES)
def test_it_has_a_test_where_the_table_says(promise):
    rows = {}
    for cells in re.findall(
        r"^\| ([A-H]\d.*?) \|.*\| (.*?) \|$", (REPOSITORY / "docs" / "reliability.md").read_text(), re.M
    ):
        first, _, last = cells[0].partition(" to ")
        for number in range(int(first[1]), int((last or first)[1]) + 1):
            rows[f"{first[0]}{number}"] = re.findall(r"`(\w+)`", cells[1])
    found = [name for name in rows[promise] if f"def test_{promise.lower()}_" in text_of(name)]
    assert found, f"none of {rows[promise]} has a test_{promise.lower()}_..."


def text_of(name: str) -> str:
    return (REPOSITORY / "tests" / "reliability" / f"{name}.py").read_text()
