"""Runs `download` for each line of JSON on standard input and prints a line of JSON.

It is a process of its own because the hub's client reads HF_ENDPOINT when it is imported. Delays
between attempts are a hundredth of the real ones; their number is the same. Images are decoded in this
process.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from quality_model.core.processes import InThisProcess
from quality_model.data import images_table
from quality_model.data.download import download
from quality_model.errors import QualityModelError
from quality_model.params import SourceParams
from quality_model.params_file import load_params


def settings() -> dict[str, str]:
    """What a library call must not change: settings of `datasets`, and variables of the hub's client."""
    from datasets import config

    found = {name: repr(value) for name, value in vars(config).items() if name.isupper()}
    return found | {name: value for name, value in os.environ.items() if name.startswith("HF_")}


if __name__ == "__main__":
    _sleep = time.sleep
    time.sleep = lambda seconds: _sleep(seconds / 100)
    images_table.WorkerProcesses = lambda **options: InThisProcess()
    limits = load_params(Path("params.yaml")).limits
    before = settings()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = asdict(download(SourceParams(**request["section"]), limits, Path(request["output"])))
        except QualityModelError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        answer |= {"settings": settings(), "settings_before": before}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
