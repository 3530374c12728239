"""Runs `download` for each line of JSON on the standard input and answers with a line of JSON.

A process of its own, because the hub's client reads HF_ENDPOINT when it is imported. Waits
between attempts are a hundredth of what they are for users; their number is the same.
"""

import json
import sys
import time
from pathlib import Path

from quality_model.data.sources.download import download
from quality_model.errors import QualityModelError
from quality_model.params import SourceParams
from quality_model.params_file import load_params

if __name__ == "__main__":
    _sleep = time.sleep
    time.sleep = lambda seconds: _sleep(seconds / 100)

    limits = load_params(Path("params.yaml")).limits
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = download(SourceParams(**request["section"]), limits, Path(request["output"]))
        except QualityModelError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
