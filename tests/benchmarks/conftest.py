"""A made folder of sets for the benchmarks that measure on real defects."""

from pathlib import Path

import pytest

from quality_model.core.decoding import Pixels
from tests.real_sets import write_sets


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    return write_sets(tmp_path_factory.mktemp("real"), photo)
