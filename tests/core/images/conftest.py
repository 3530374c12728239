import numpy as np
import pytest

from quality_model.core.decoding import Pixels


@pytest.fixture(scope="session")
def small(photo: Pixels) -> Pixels:
    return np.ascontiguousarray(photo[100:140, 200:260])
