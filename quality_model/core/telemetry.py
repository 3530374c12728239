"""Nothing that we start phones home."""

import os
from typing import Final

QUIET: Final = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "GX_ANALYTICS_ENABLED": "false",
}


def silence() -> None:
    """Switch the telemetry of our dependencies off for this process and its children."""
    os.environ.update(QUIET)
