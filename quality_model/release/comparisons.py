"""A comparison is kept with the version of the registry that it is about."""

import logging
from pathlib import Path

from quality_model.errors import ModelNotFoundError
from quality_model.params import RegistryParams
from quality_model.release.registry import Registry
from quality_model.score.compare import FILES, Comparison

log = logging.getLogger(__name__)


def attach_comparison(registry: RegistryParams, root: Path, comparison: Comparison, output: Path) -> None:
    """Attach the comparison in ``output`` to the new model's version and run, if the registry has them."""
    new = comparison.new
    if new.version is None or new.name != registry.model_name:
        return
    catalogue = Registry(root, registry)
    try:
        version = catalogue.find(new.version)
    except ModelNotFoundError:
        log.warning("Version %s no longer exists; the comparison stays in %s.", new.version, output)
        return
    catalogue.attach_comparison(version, comparison.summary(), [output / name for name in FILES])
