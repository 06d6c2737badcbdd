"""verify on what other commands than those of videos have made."""

import numpy as np
import pyarrow as pa

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
