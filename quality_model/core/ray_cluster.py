"""Where a job runs: on this machine, or on a cluster of Ray that is there or is started for it."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from quality_model.core.processes import end_if_imported_again
from quality_model.core.ray_nodes import RayNodes
from quality_model.core.system import num_cores, silence_telemetry
from quality_model.errors import MissingExtraError, UsageError, missing_extra

LOCAL: Final = "local"
RAY: Final = "ray"
AUTO: Final = "auto"
_SCHEME: Final = "ray://"

_CONNECT_WITHIN_S: Final = 5.0
_OBJECT_STORE_BYTES: Final = 256 << 20
"""Of a cluster that is started here. Tasks and results are small: images never pass through it."""
_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


@contextmanager
def executor_on(on: str, *, cpus: int = 1, gpu: bool = False) -> Iterator["RayNodes | None"]:
    """The executor that a job runs on; None for this machine, where each job has processes of its own.

    Args:
        on: ``local``; ``ray`` for the cluster that RAY_ADDRESS names, or else one on this machine that ends
            with the job; ``auto`` for the cluster that runs here; or ``ray://host:port``.
        cpus: What the function uses of a node.
        gpu: It wants a GPU, too; its actors have one where the cluster has any.

    Raises:
        UsageError: There is no such place, no cluster answers, or it has another version of Ray or Python.
        MissingExtraError: Ray is not installed.
    """
    if on == LOCAL:
        yield None
        return
    end_if_imported_again()
    with _connected(on):
        yield RayNodes.of_cluster(cpus, gpu=gpu)


@contextmanager
def _connected(on: str) -> Iterator[None]:
    """Be connected to the cluster; one that was started for this is stopped."""
    address = _address(on)
    os.environ.update(_QUIET)
    silence_telemetry()
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
    if ray.is_initialized():  # by the program that calls
        yield
        return
    try:
        with _own_handler_of(signal.SIGTERM):
            _connect(ray, address)
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"No connection to Ray at {address}: {line}",
            "Check the address; cluster and driver need the same versions of Ray and Python.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_handler_of(number: signal.Signals) -> Iterator[None]:
    """Keep the program's handler of a signal: Ray puts one of its own in its place."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _address(on: str) -> str:
    """What Ray calls the place that ``on`` names."""
    if on == RAY:
        return os.environ.get("RAY_ADDRESS") or LOCAL
    if on == AUTO or (on.startswith(_SCHEME) and urlsplit(on).hostname):
        return on
    raise UsageError(f"--on {on!r} is no place to run.", "Give local, ray, auto or ray://host:port.")


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != LOCAL:
        if address.startswith(_SCHEME):
            place = urlsplit(address)
            with socket.create_connection((place.hostname, place.port or 10001), _CONNECT_WITHIN_S):
                pass  # Ray itself tries for half a minute
            if find_spec("grpc") is None:
                raise MissingExtraError(
                    'ray:// needs grpcio, which is not installed: pip install "ray[client]"'
                )
        ray.init(address=address, **quiet)
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # as worker processes have, and not Ray's 15
    ray.init(
        address=LOCAL,
        num_cpus=num_cores(),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        **quiet,
    )
