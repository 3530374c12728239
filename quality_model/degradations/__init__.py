"""What is done to clean pictures, and which label it earns: the label profiles by name."""

from typing import Final

from quality_model.degradations.calibrated_profile import CalibratedProfile
from quality_model.degradations.profile import AppliedDegradation, DegradedSample, Profile
from quality_model.degradations.randomness import SampleRandomness
from quality_model.degradations.seed_profile import SeedProfile

PROFILES: Final[dict[str, Profile]] = {
    profile.name: profile for profile in (CalibratedProfile(), SeedProfile())
}
"""The label profiles that ``generate.profile`` may name."""

__all__ = ["PROFILES", "AppliedDegradation", "DegradedSample", "Profile", "SampleRandomness"]
