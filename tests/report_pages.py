"""Pages as a command writes them, checked."""

import re
from html.parser import HTMLParser
from pathlib import Path

from vidkd import cli
from vidkd.report import __main__ as report


class Checker(HTMLParser):
    """Every tag is closed, and nothing is fetched."""

    VOID = {"meta", "img", "br", "circle", "line", "rect", "polyline", "path"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.foreign += [v for k, v in attrs if k in ("src", "href") and not (v or "").startswith("data:")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID


def checked(text: str) -> str:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert not checker.foreign
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"data:image[^\"]*", "", text))
    return text


def written(folder: Path) -> str:
    assert cli.run_main(report.main, [str(folder)]) == 0
    return checked((folder / "report.html").read_text(encoding="utf-8"))
