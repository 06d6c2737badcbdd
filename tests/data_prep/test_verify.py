"""verify on what other commands than those of videos have made."""

import csv

import numpy as np
import pyarrow as pa
import pytest

from data_prep.pipeline.produce import checksum_of
from vidkd.data import index


def test_features_are_counted_too(tmp_path, data_prep):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((7, 4), np.float32))
    row = {"path": path.name, "bytes": path.stat().st_size, "checksum": checksum_of(path), "frames": 7, "fps": 5.0}
    row |= {"width": 1, "height": 1, "label": "x", "group": "", "status": "ok", "reason": "", "split1": "train"}
    schema = pa.schema([*index.SCHEMA.items(), ("split1", pa.string())])
    card = {"name": "features", "horizontal_flip": "keeps_labels", "modality": "features"}
    for frames, status in ((7, 0), (8, 2)):
        index.write(tmp_path, pa.Table.from_pylist([row | {"frames": frames}], schema), ("x",), card)
        found, said = data_prep("verify", tmp_path, "--deep")
        assert found == status, said
    assert "7 frames can be decoded instead of 8" in said


@pytest.mark.parametrize("form", ["video", "raw"])
@pytest.mark.parametrize(
    ("column", "other", "told"),
    [("fps", "50", "has 25 frames a second instead of 50"), ("width", "66", "is 64x48 px instead of 66x48")],
)
def test_an_index_that_was_edited(tmp_path, make_video, data_prep, form, column, other, told):
    make_video(tmp_path / "in" / "a" / "v.mp4")
    out = tmp_path / "out"
    assert data_prep("folder", "--root", tmp_path / "in", "--out", out, "--test-fraction", 0, "--frames", form)[0] == 0
    assert data_prep("verify", out, "--deep")[0] == 0
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row | {column: other})
    status, said = data_prep("verify", out, "--deep")
    assert status == 2 and told in said, said
