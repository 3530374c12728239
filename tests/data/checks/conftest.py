"""The lines of a validation error."""

from quality_model.errors import ValidationError


def failures(error: ValidationError) -> list[str]:
    """One per failed expectation."""
    return [line.removeprefix("  - ") for line in error.problem.splitlines()[1:]]
