"""Fixtures that every test may use. Nothing here phones home, and no server outlives a test."""

import os
from pathlib import Path

os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "GX_ANALYTICS_ENABLED": "false",
        "MPLBACKEND": "Agg",
    }
)

import numpy as np
import pytest
from PIL import Image

from quality_model.images import Pixels
from quality_model.params import LimitsParams, Params, load_params

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return load_params(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def limits(params: Params) -> LimitsParams:
    return params.limits


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A real colour photograph, uint8 (512, 512, 3)."""
    import skimage

    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return np.asarray(Image.open(path).convert("RGB"))
