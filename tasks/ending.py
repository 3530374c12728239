"""How a flow that was started by hand ends when it is asked to."""

import signal
import sys


def leave_in_order_on_sigterm() -> None:
    """Let SIGTERM end this process as an exit does, code 143: Prefect then stops its temporary server.

    Without it the signal's own way of ending a process skips that, and the server lives on.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
