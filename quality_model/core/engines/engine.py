"""What every engine offers."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from quality_model.params import EngineName


class Engine(Protocol):
    """A network that is ready to score.

    Attributes:
        name: Library and number format.
        is_portable: Whether it can be pickled into a worker process, one core each; those on
            an accelerator cannot.
    """

    @property
    def name(self) -> EngineName: ...

    @property
    def is_portable(self) -> bool: ...

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score images.

        On a CPU each is scored by itself on one thread, so that its scores hang neither on
        its neighbours nor on the number of cores.

        Args:
            pixels: uint8 (N, S, S, 3) RGB.

        Returns:
            float32 (N, 4), 0 absent to 1 severe, in the order of `records.HEADS`.
        """
        ...
