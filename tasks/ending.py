"""How a flow that was started by hand begins and ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

from quality_model.core import system
from quality_model.errors import FlowServerError, QualityModelError, StorageError
from tasks import failures  # noqa: F401 - logs an error for users without a traceback


def run_by_hand(flow: Callable[[], object]) -> None:
    """Run a flow and leave with the exit code of what ended it; an error for users is one message."""
    system.prepare()
    leave_in_order_on_sigterm()
    try:
        system.require_current_folder()
        require_server()
        flow()
    except QualityModelError as error:
        system.say(f"Error: {error}")
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:  # the stage has said why
        system.say(f"Error: {' '.join(map(str, error.cmd))} ended with {error.returncode}; see above.")
        sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)
    except BrokenPipeError:
        if not system.reader_is_gone():
            raise
        sys.exit(128 + signal.SIGPIPE)
    finally:
        system.finish()


def require_server() -> None:
    """Make sure that Prefect's server answers, which else shows in some hundred lines.

    Without an address that is a temporary one, which is started here and needs a folder.

    Raises:
        FlowServerError: It does not answer, or is of another version.
        StorageError: The folder cannot be written.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    address, home = PREFECT_API_URL.value(), PREFECT_HOME.value()
    if not address and not os.access(next(at for at in (home, *home.parents) if at.exists()), os.W_OK):
        raise StorageError(f"Prefect's folder {home} cannot be written.", "Set PREFECT_HOME to another one.")
    try:
        with get_client(sync_client=True) as client:
            failure = client.api_healthcheck()
            if failure is None:
                client.raise_for_api_version_mismatch()
    except Exception as error:  # noqa: BLE001 - nothing has begun: whatever it is, the server cannot be used
        failure = error
    if failure is None:
        return
    cause = (" ".join(str(failure).split()) or type(failure).__name__).rstrip(".")
    if address:
        problem = f"Prefect's server at {address} does not answer: {cause}."
        remedy = "Start it, or correct PREFECT_API_URL. Unset, the flow starts a temporary server."
    else:
        problem = f"Prefect's temporary server did not start: {cause}."
        remedy = (
            "Set PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120 on a slow machine, "
            "or start a server and set PREFECT_API_URL."
        )
    raise FlowServerError(problem, remedy) from failure


def leave_in_order_on_sigterm() -> None:
    """Let SIGTERM end this process as an exit does, code 143: Prefect then stops its temporary server.

    Without it the signal's own way of ending a process skips that, and the server lives on.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
