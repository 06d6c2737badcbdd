"""THUMOS14: 20 classes in untrimmed videos; trained on its 200 `validation` videos, tested on `test`.

Get TH14_validation_set_mp4.zip and TH14_Test_set_mp4.zip from https://www.crcv.ucf.edu/THUMOS14/download.html and
unpack them, with the password that its form gives, into `--root`. `--annotations` is the folder with AFSD's lists
(thumos_annotations of https://github.com/TencentYoutuResearch/ActionDetection-AFSD: val_Annotation.csv,
test_Annotation.csv) or a .json (thumos_gt.json, or ActionFormer's). How many test videos count differs between papers:

    --test-videos 213   all that are annotated, one of them only with ambiguous segments
    --test-videos 212   those with an action (the default: ActionFormer, AFSD's sampler)
    --test-videos 211   without video_test_0000270, whose annotations run on after its end
    --test-videos 210   without 0000270 and 0001496, as in thumos_gt.json (AFSD's and OpenTAD's evaluation)
"""

import argparse
from pathlib import Path

from data_prep.pipeline import prepare, segments
from vidkd import annotations
from vidkd.annotations import Annotations
from vidkd.errors import DataError

EXPECTED = {"train": (200, 3007), "213": (213, 3358), "212": (212, 3358), "211": (211, 3329), "210": (210, 3311)}
LEFT_OUT = {  # video_test_...
    "213": (),
    "212": ("0001292",),
    "211": ("0001292", "0000270"),
    "210": ("0001292", "0000270", "0001496"),
}
BY_HAND = (
    "Get TH14_validation_set_mp4.zip and TH14_Test_set_mp4.zip from https://www.crcv.ucf.edu/THUMOS14/download.html, "
    "unpack them with the password that its form gives, and name their folder with --root; get the folder "
    "thumos_annotations from https://github.com/TencentYoutuResearch/ActionDetection-AFSD, and name it with "
    "--annotations"
)
LICENCE = "none is stated at https://www.crcv.ucf.edu/THUMOS14/; the videos were collected from YouTube"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    segments.add_arguments(parser)
    parser.add_argument("--annotations", type=Path, required=True, help="the folder of the lists, or a .json")
    parser.add_argument("--test-videos", choices=sorted(LEFT_OUT), default="212", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    prepare.begin(args)
    said, files = read(args.annotations)
    part_of = parts(said, args.test_videos)
    check(said, part_of, args.test_videos)
    notes = {"protocol": f"{args.test_videos} test videos"}
    return segments.run(args, "thumos14", said, part_of, files=files, licence=LICENCE, notes=notes, by_hand=BY_HAND)


def read(path: Path) -> tuple[Annotations, tuple[Path, ...]]:
    """Both subsets, and the files they came from."""
    if path.suffix == ".json":
        return annotations.read(path), (path,)
    files = (path / "val_Annotation.csv", path / "test_Annotation.csv")
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"--annotations {path}: no {missing[0]} in it. {BY_HAND}")
    validation, test = map(annotations.read, files)
    return segments.joined({"validation": validation, "test": test}), files


def parts(said: Annotations, protocol: str) -> dict[str, str]:
    """The videos of the protocol, train and test."""
    out = {f"video_test_{number}" for number in LEFT_OUT[protocol]}
    meaning = {"validation": "train", "train": "train", "test": "test"}
    return {video: part for video, part in segments.parts(said, meaning).items() if video not in out}


def check(said: Annotations, part_of: dict[str, str], protocol: str) -> None:
    """DataError if these are not the official annotations, complete."""
    for part, expected in (("train", EXPECTED["train"]), ("test", EXPECTED[protocol])):
        videos = {video for video, own in part_of.items() if own == part}
        found = (len(videos), sum(video in videos for video in said.actions.video))
        if found != expected:
            raise DataError(
                f"THUMOS14, {part}: {found[0]} videos with {found[1]} actions, where {expected[0]} with {expected[1]} "
                "belong; another --test-videos may be meant, or the lists are not the official ones"
            )
