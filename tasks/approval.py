"""A person decides whether a candidate that passed the gate becomes champion: Prefect pauses and asks."""

from typing import Final

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from quality_model.errors import UsageError
from quality_model.params import GateParams
from quality_model.paths import BESIDE_CHAMPION_NAME, ProjectPaths
from quality_model.release.champion import PASSED
from quality_model.release.decisions import Decision

_LOOK_EVERY_S: Final = 5

QUESTION: Final = """Version {version} passed the gate. Shall it become the champion?

- Evidence, with figures and checks: `{index}`
- Candidate beside champion, on the same samples: `{beside}`

{verdict}"""


class Answer(RunInput):
    """What a person decides: Prefect shows these fields as a form.

    Attributes:
        approve: Whether the candidate becomes champion.
        who: Name of the person, for the record.
        why: Reason, for the record.
    """

    approve: bool
    who: str = Field(min_length=1)
    why: str = Field(min_length=1)

    @property
    def reason(self) -> str:
        """Who decided and why, for the record."""
        return f"{'approved' if self.approve else 'declined'} by {self.who}: {self.why}"


class NotAsked(Answer):
    """Stands for the answer where `gate.approval` asks for none."""

    @property
    def reason(self) -> str:
        return PASSED


def require_place(gate: GateParams) -> None:
    """Make sure that a person can answer, before work is done.

    Raises:
        UsageError: The run has a temporary server, which nobody sees.
    """
    if gate.approval == "required" and not PREFECT_API_URL.value():
        raise UsageError(
            "gate.approval is required, and the Prefect server of this run is temporary: nobody can answer.",
            "Set PREFECT_API_URL to a server (make prefect-ui), or set gate.approval none.",
        )


def ask(gate: GateParams, paths: ProjectPaths, registered: Decision) -> Answer:
    """Pause the flow run until a person has decided; after `gate.approval_within_s` nobody has approved."""
    if gate.approval == "none":
        return NotAsked(approve=True, who="-", why="-")
    question = QUESTION.format(
        version=registered.model.version,
        index=paths.reports.absolute() / "index.html",
        beside=paths.gate_report.absolute() / BESIDE_CHAMPION_NAME,
        verdict=registered.verdict.markdown(),
    )
    try:
        return pause_flow_run(
            Answer.with_initial_data(description=question, approve=False),
            timeout=round(gate.approval_within_s),
            poll_interval=_LOOK_EVERY_S,
        )
    except FlowPauseTimeout:
        return Answer(approve=False, who="nobody", why=f"no answer within {gate.approval_within_s:g} s")


def ending(registered: Decision, answer: Answer) -> str:
    """One sentence on what came of it."""
    before = registered.verdict.compared_with
    stays = f"Version {before} stays champion" if before else "There is no champion yet"
    return f"{stays}: version {registered.model.version}, which passed the gate, was {answer.reason}."
