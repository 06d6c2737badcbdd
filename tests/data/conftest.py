"""The numbered videos that the tests of clips read."""

import pytest

from data import numbered
from vidkd.data.index import Index, Part


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """13 videos of 1 to 37 frames."""
    return numbered.prepared(tmp_path_factory.mktemp("numbered"), [1, *range(3, 39, 3)])


@pytest.fixture(scope="session")
def part(dataset: Index) -> Part:
    return dataset.part("split1", "train")
