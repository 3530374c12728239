"""Synthetic degradations of clean images and their labels: the label profiles by name."""

from typing import Final

from quality_model.degrade.calibrated.calibrated_profile import CalibratedProfile
from quality_model.degrade.randomness import SampleRandomness
from quality_model.degrade.seed import SeedProfile
from quality_model.degrade.severity import AppliedDegradation, DegradedSample, Profile

PROFILES: Final[dict[str, Profile]] = {
    profile.name: profile for profile in (CalibratedProfile(), SeedProfile())
}
"""The label profiles that ``generate.profile`` may name."""

__all__ = ["PROFILES", "AppliedDegradation", "DegradedSample", "Profile", "SampleRandomness"]
