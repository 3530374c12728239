"""Imported by the server that forks: MLflow looks through all installed packages before it writes a model.

That takes a second, once per process; forked ones inherit the answer.
"""

from contextlib import suppress

from mlflow.utils import requirements_utils

with suppress(AttributeError):  # not public, and no test depends on it
    requirements_utils._init_packages_to_modules_map()
