"""What a stack keeps of itself: its folder, its ports, its passwords, and what programs need to use it."""

import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from quality_model.core import storage, system
from quality_model.errors import QualityModelError, UsageError

USER: Final = "quality"
"""Of PostgreSQL, MLflow and Prefect."""

KEY_ID: Final = "quality-model-stack"
"""Of the store: like a secret it is blanked out wherever it is shown, so it is no word of paths."""

REGION: Final = "us-east-1"
SETTINGS_NAME: Final = "stack.json"
_SETTINGS: Final = ("MLFLOW_", "PREFECT_", "AWS_", "PG", "WEED_")
"""Beginnings of the names of environment variables that a stack sets itself."""

_KEYS: Final = ("admin", "password", "s3", "s3.internal", "mlflow.session")
_PORTS: Final = range(20_000, 30_000)
"""Below those that Linux gives to outgoing connections."""


class ServerError(QualityModelError):
    """A server did not start, or does not answer."""


@dataclass(frozen=True)
class Stack:
    """Where the services of a project keep their state, and how they are reached.

    Attributes:
        folder: Of all state; absolute.
        project: The project whose prefect.yaml is deployed and whose DVC remote is set; absolute.
        ports: By the name of a service, or of a part of one.
        keys: Passwords and keys, by what they are for.
    """

    folder: Path
    project: Path
    ports: Mapping[str, int]
    keys: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path, project: Path, names: Iterable[str], ports: Mapping[str, int]) -> "Stack":
        """Read the ports and keys of a stack; what it lacks is chosen and kept.

        Args:
            folder: Of all state.
            project: The project that it serves.
            names: Of all ports.
            ports: Those that are to change.

        Raises:
            UsageError: A port is given for what the stack does not have.
        """
        for unknown in sorted(ports.keys() - set(names)):
            raise UsageError(f"There is no port {unknown!r}.", f"There are: {', '.join(names)}.")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        path = folder / SETTINGS_NAME
        kept = storage.read_json(path) if path.exists() else {"ports": {}, "keys": {}}
        chosen = {**kept["ports"], **ports}
        for name in names:
            if name not in chosen:
                chosen[name] = _free_port(set(chosen.values()))
        keys = {name: kept["keys"].get(name) or secrets.token_urlsafe(24) for name in _KEYS}
        if (found := {"ports": chosen, "keys": keys}) != kept:
            storage.write_json(path, found)
        return cls(folder.resolve(), project.resolve(), chosen, keys)

    def url(self, name: str) -> str:
        """The address of a service."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def database(self, name: str, driver: str = "postgresql") -> str:
        """The address of a database; its password is in the file ``pgpass``."""
        return f"{driver}://{USER}@127.0.0.1:{self.ports['postgres']}/{name}"

    @property
    def client(self) -> dict[str, str]:
        """What a program needs in its environment to use MLflow, Prefect and the store."""
        return {
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.keys["password"],
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.keys['password']}",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": self.keys["s3"],
            "AWS_ENDPOINT_URL": self.url("s3"),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @staticmethod
    def clean_environment() -> dict[str, str]:
        """This environment without settings of what a stack consists of, and without telemetry."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        return {**kept, **system.NO_TELEMETRY}

    def ask(self, name: str, path: str, *, post: bool = False) -> requests.Response:
        """What a service answers, asked with the password and past any proxy.

        Raises:
            requests.RequestException: It does not answer, or refuses.
        """
        with requests.Session() as session:
            session.trust_env = False
            session.auth = (USER, self.keys["password"])
            url = f"{self.url(name)}{path}"
            answer = session.post(url, json={}, timeout=10) if post else session.get(url, timeout=10)
        answer.raise_for_status()
        return answer


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of loopback."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _free_port(taken: set[int]) -> int:
    while (port := secrets.choice(_PORTS)) in taken or not is_free(port):
        pass
    return port


def write_ini(path: Path, section: str, values: Mapping[str, str]) -> None:
    """Write a file of one section."""
    parser = ConfigParser(interpolation=None)
    parser[section] = dict(values)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)
