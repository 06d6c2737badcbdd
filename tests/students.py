"""A student that is written as files, and what it takes to write one."""

import json
import struct
from pathlib import Path

import torch

from vidkd import card, config_file, export, models

CLASSES = ("archery", "piano", "surfing", "a, b|c")


def run_of(name="tiny16", **student):
    return config_file.parse(
        {
            "name": "demo",
            "task": {"kind": "recognition"},
            "data": {"root": "data/demo", "clip": {"frames": 8, "stride": 2}, "short": "hold"},
            "student": {"name": name, "view": {"size_px": 32, "frames": 4}} | student,
            "optim": {"kind": "adamw", "lr": 1e-3},
            "train": {"steps": 5, "batch_size": 4},
        },
        "test",
    )


RESULTS = {
    "student": {
        "headline": "top-1 62.1% (95 % 55.0% to 68.7%)",
        "top1": 0.6214,
        "top1_interval": [0.5504, 0.6872],
        "top5": 0.9,
        "n": 200,
        "aggregation": "mean_probability",
        "confusion": [[1]],
        "protocol": {
            "data_set": "motion",
            "split": "split1",
            "part": "test",
            "coverage": {"scored": 200, "expected": 200},
            "frames": 4,
            "stride": 4,
            "size_px": 32,
            "clips": 2,
            "crops": 3,
        },
        "cost": {"parameters": 22356, "gmacs": 0.0123},
    },
    "environment": {"vidkd": "0.1.0", "packages": {"torch": "2.13.0"}, "git_commit": "abc123+"},
}


def rewrite(path: Path, change):
    """Change the header of a safetensors file and leave its tensors as they are."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])


def a_card():
    return card.Card(
        network="tiny16",
        options={},
        classes=CLASSES,
        input=json.loads(json.dumps(export.asdict(models.build("tiny16", 4).input))),
        clip=run_of().data.clip,
        view=run_of().student.view,
        short="hold",
    )


def network():
    torch.manual_seed(0)
    return models.build("tiny16", 4).eval()


def write(folder: Path, tapped) -> Path:
    """The files of a student in `folder`."""
    export.save_student(folder, tapped, run_of(), CLASSES, RESULTS)
    return folder
