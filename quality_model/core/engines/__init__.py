"""The ways to run a trained network on images, and the choice among them.

An engine computes what the network computes, faster: batch norm is folded into the
convolutions, the number format is the fastest that agrees with the network in float32.
Importing this package is cheap; each engine imports what it needs.
"""

from quality_model.core.engines.engine import Engine

__all__ = ["Engine"]
