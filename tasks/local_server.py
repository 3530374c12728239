"""Checks before a server is started or used on this machine, each with one clear line.

``python -m tasks.local_server free mlflow-ui MLFLOW_PORT 5000``: nothing uses the port.
``python -m tasks.local_server ours 4200``: this project's Prefect server answers there.
"""

import base64
import json
import os
import socket
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener


def is_free(port: str) -> str | None:
    """Why a port of loopback cannot be listened on; None if it can."""
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except (ValueError, OverflowError):
        return f"{port!r} is not a port."
    except OSError as error:
        return f"Port {port} cannot be used: {os.strerror(error.errno or 0)}."
    return None


def is_ours(port: str, home: Path) -> str | None:
    """Why the Prefect server at a port is not the one of the project with this PREFECT_HOME; None if it is.

    Another project's server would replace that project's deployments, which have the same names.
    """
    address = f"http://127.0.0.1:{port}/api"
    request = Request(f"{address}/admin/settings")
    if password := os.environ.get("PREFECT_API_AUTH_STRING"):
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:  # no proxy reaches loopback
            found = Path(json.load(answer)["home"])
    except HTTPError as error:
        if error.code in (401, 403):
            return (
                f"The Prefect server at {address} refuses access (HTTP {error.code}). "
                "If it is this project's, set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING."
            )
        return f"What answers at {address} (HTTP {error.code}) is no Prefect server of this project."
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return f"No Prefect server answers at {address}."
    if found.resolve() != home.resolve():
        return f"The Prefect server at {address} belongs to another project: its state is in {found}."
    return None


def main() -> int:
    check, *words = sys.argv[1:]
    if check == "free":
        target, variable, port = words
        problem, remedy = is_free(port), f"Choose another one: make {target} {variable}=N"
    else:
        problem = is_ours(words[0], Path(os.environ["PREFECT_HOME"]))
        remedy = (
            "Run `make prefect-ui PREFECT_PORT=N` in another terminal, then `make service PREFECT_PORT=N`."
        )
    if problem is None:
        return 0
    sys.stderr.write(f"Error: {problem} {remedy}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
