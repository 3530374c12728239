"""What a run reports, sent at once or kept on disk until the tracking server is back.

Each call is a JSON value. While the server answers, calls go straight to it. Once it does
not, they are appended to a journal in ``state/tracking/<key>``, copies of their files
beside it, and replayed in order later: at a following call, at the end, or by `deliver`.
Replaying is harmless where it happens twice, because every call is made so that its
second delivery changes nothing (see `mlflow_calls`).
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from quality_model.core.storage import append_line, locked, read_json, read_lines, write_json
from quality_model.errors import ModelNotFoundError, RegistryError, StorageError
from quality_model.release.mlflow_connection import RequestRefusedError

log = logging.getLogger(__name__)

Call = dict[str, Any]

_STATE: Final = "run.json"
_JOURNAL: Final = "calls.jsonl"
_REFUSED: Final = "refused.jsonl"
_FILES: Final = "files"
_FIRST_PAUSE_S: Final = 15.0
_LONGEST_PAUSE_S: Final = 300.0
_SEND_WAIT_S: Final = 0.5
_DELIVER_WAIT_S: Final = 60.0


class Outbox:
    """The calls of one run.

    Args:
        folder: ``state/tracking/<key>``; made if missing.
        send: Delivers one call and returns what the run's state gains by it; raises
            RegistryError while the server cannot be reached.
    """

    def __init__(self, folder: Path, send: Callable[[dict[str, Any], Call], dict[str, Any]]) -> None:
        self.folder = folder
        self._send = send
        self._threads = threading.RLock()
        self._pause_s = _FIRST_PAUSE_S
        self._retry_at = 0.0

    @property
    def state(self) -> dict[str, Any]:
        """JSON values of the run: ``key``, ``run_id`` once known, ``delivered`` calls of the journal."""
        path = self.folder / _STATE
        return dict(read_json(path)) if path.exists() else {"key": self.folder.name, "delivered": 0}

    @property
    def waiting(self) -> int:
        """Calls that the server has not taken yet."""
        return len(read_lines(self.folder / _JOURNAL)) - int(self.state["delivered"])

    def put(self, call: Call, paths: list[Path] | None = None) -> None:
        """Send a call, or keep it; never fails because of the server.

        Args:
            call: JSON values.
            paths: Files and folders that belong to it, read before this returns.

        Raises:
            StorageError: It could be neither sent nor kept.
        """
        call = {**call, "paths": [str(path.resolve()) for path in paths or []]}
        with self._threads:
            if time.monotonic() < self._retry_at:
                self._keep(call)
                return
            try:
                with locked(self.folder / ".lock", timeout_s=_SEND_WAIT_S):
                    self._flush()
                    self._deliver(call)
            except StorageError:
                self._keep(call)  # another process is delivering this run's calls just now
            except RegistryError as error:
                self._keep(call)
                self._rest(error)

    def rest(self) -> None:
        """Keep what comes in the next seconds on disk: the server is known not to answer."""
        self._retry_at = time.monotonic() + self._pause_s

    def deliver(self) -> int:
        """Send what waits, now; returns the number of calls that the server took.

        Raises:
            RegistryError: The server does not take them; those it took are not sent again.
            StorageError: Another process holds this run's outbox.
        """
        with self._threads, locked(self.folder / ".lock", timeout_s=_DELIVER_WAIT_S):
            return self._flush()

    def update(self, **facts: Any) -> None:
        """Keep facts in the run's state."""
        write_json(self.folder / _STATE, {**self.state, **facts})

    def _flush(self) -> int:
        sent = 0
        while True:
            calls = read_lines(self.folder / _JOURNAL)
            done = int(self.state["delivered"])
            if done >= len(calls):
                break
            # Absolute in journals of before, yet always these files: the project may have been moved since.
            paths = [
                str(self.folder.joinpath(*Path(path).parts[-4:]).resolve()) for path in calls[done]["paths"]
            ]
            sent += self._deliver({**calls[done], "paths": paths}, delivered=done + 1)
            shutil.rmtree(self.folder / _FILES / calls[done]["id"], ignore_errors=True)
        self._pause_s, self._retry_at = _FIRST_PAUSE_S, 0.0
        return sent

    def _deliver(self, call: Call, **facts: Any) -> bool:
        """Send a call, and keep what the run's state gains by it; returns whether the server took it."""
        is_taken = True
        try:
            gained = self._send(self.state, call)
        except (RequestRefusedError, ModelNotFoundError) as error:
            if call["call"] == "start":
                raise
            # It would stand in the way of all later calls for ever.
            log.error("%s It is set aside in %s.", error.problem, self.folder / _REFUSED)
            append_line(self.folder / _REFUSED, call)
            gained, is_taken = {}, False
        if gained or facts:
            self.update(**gained, **facts)
        return is_taken

    def _keep(self, call: Call) -> None:
        call = {**call, "id": f"{time.time_ns():020d}-{threading.get_ident() % 10**6:06d}"}
        kept = []
        for number, path in enumerate(map(Path, call["paths"])):
            copy = self.folder / _FILES / call["id"] / str(number) / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copyfile(path, copy)
            kept.append(str(copy.relative_to(self.folder)))
        append_line(self.folder / _JOURNAL, {**call, "paths": kept})

    def _rest(self, error: RegistryError) -> None:
        log.warning("%s Training goes on; %d reports wait in %s.", error.problem, self.waiting, self.folder)
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
