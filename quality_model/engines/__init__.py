"""The ways to run a trained network on pictures, and the choice among them.

An engine computes what the network computes, faster: batch norm is folded into the
convolutions, the number format is the fastest that agrees with the network in float32.
Importing this package is cheap; each engine imports what it needs.
"""

from quality_model.engines.engine import Engine

__all__ = ["Engine"]
