"""Every error a user can meet.

    QualityModelError            exit code 1
    |-- UsageError               2   a flag, a parameter, a name
    |   |-- ParameterError           params.yaml or an override
    |   `-- DeviceUnavailableError   a device that is not here
    |-- GateRefusedError         3   the candidate may not become champion
    |-- InputErrorsAboveLimit    4   more unreadable inputs than the job allows
    |-- SourceError              5   clean images could not be fetched
    |   `-- NetworkUnavailableError
    |-- ValidationError          6   a table broke its contract
    |-- TrainingError            7   training cannot continue
    |-- CheckpointError          8   weights that do not load
    |-- RegistryError            9   tracking server or model registry
    |   |-- ModelNotFoundError
    |   |-- ChampionChangedError     another promotion was faster
    |   `-- NoEarlierChampionError   a rollback has nowhere to go
    |-- StorageError            10   bytes that could not become, or are not, durable
    |   |-- IncompleteError          they have no completion marker
    |   `-- CorruptError             they are not what the completion marker says
    |-- ImageError            11   one image; batch work turns it into a row's error code
    |-- MemoryExhaustedError    12   the system has no memory to give
    `-- FlowServerError         13   the server of the flows does not answer

Each says what was wrong, the value, and the remedy.
"""

import re
from typing import ClassVar, Final

from quality_model.core.redaction import redacted

_LONG_WORD: Final = re.compile(r"(\S{400})(\S{200,})(\S{400})")
"""A name or a value of an input that is longer than anyone reads."""


class QualityModelError(Exception):
    """What a user is shown: the problem, the value, and how to fix it; never a credential.

    Args:
        problem: What was wrong, with the offending value.
        remedy: What to do about it; empty where the problem says it all.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = _shortened(redacted(problem)), _shortened(redacted(remedy))
        super().__init__(self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.remedy}" if self.remedy else self.problem


def _shortened(text: str) -> str:
    """The text, each very long word cut in its middle; the rest stays whole."""
    return _LONG_WORD.sub(lambda word: f"{word[1]} [... {len(word[2])} characters ...] {word[3]}", text)


class UsageError(QualityModelError):
    """A flag, argument or name that cannot be used."""

    exit_code = 2


class ParameterError(UsageError):
    """A key or value of params.yaml, or of an override, that is not allowed."""


class DeviceUnavailableError(UsageError):
    """The requested device is not on this machine."""


class GateRefusedError(QualityModelError):
    """The gate refused the candidate."""

    exit_code = 3


class InputErrorsAboveLimit(QualityModelError):
    """More inputs were unreadable than the job allows; what was scored is kept."""

    exit_code = 4


class SourceError(QualityModelError):
    """Could not fetch clean images."""

    exit_code = 5


class NetworkUnavailableError(SourceError):
    """A source needs a network that does not answer."""


class ValidationError(QualityModelError):
    """A table does not meet its expectations."""

    exit_code = 6


class TrainingError(QualityModelError):
    """Training cannot continue: the loss is not finite, or there is too little data."""

    exit_code = 7


class CheckpointError(QualityModelError):
    """A file of weights does not load."""

    exit_code = 8


class RegistryError(QualityModelError):
    """The tracking server or the model registry cannot do what was asked."""

    exit_code = 9


class ModelNotFoundError(RegistryError):
    """A reference names no version of the registry."""


class ChampionChangedError(RegistryError):
    """The champion is no longer the one that the candidate was compared with."""


class NoEarlierChampionError(RegistryError):
    """No earlier version was champion."""


class StorageError(QualityModelError):
    """Bytes could not be made durable."""

    exit_code = 10


class IncompleteError(StorageError):
    """A result without its completion marker."""


class CorruptError(StorageError):
    """A result whose bytes are not those that its completion marker says."""


class ImageError(QualityModelError):
    """One image cannot be read.

    Args:
        reason: A short stable code for tables, such as ``truncated`` or ``too_many_pixels``.
        detail: What was found, for people.
    """

    exit_code = 11

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class MemoryExhaustedError(QualityModelError):
    """The system has no memory to give."""

    exit_code = 12


class FlowServerError(QualityModelError):
    """Prefect's server does not answer, or is of another version."""

    exit_code = 13
