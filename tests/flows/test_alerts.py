"""`make alerts`: who is notified of what, at a real Prefect server, by webhook, Slack and e-mail."""

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from benchmarks.project import environment
from quality_model.params_file import parse_yaml
from tests.servers import free_port, page, started, wait_for

PROJECT = Path(__file__).resolve().parents[2]

MAKE_BLOCKS = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
web, mail = sys.argv[1:]
CustomWebhookNotificationBlock(
    name="ours", url=f"http://127.0.0.1:{web}/hook", json_data={"title": "{{subject}}", "text": "{{body}}"}
).save("ours")
SlackWebhook(url=f"mailto://127.0.0.1:{mail}?from=quality@example.com&to=team@example.com").save("mail")
"""

EVENTS = """
from prefect import flow
from prefect.events import emit_event
from quality_model.params_file import load_params
from tasks.release import GATE_REFUSED
from pathlib import Path

@flow(name="score")
def score() -> None:
    raise RuntimeError("the collection is gone")

emit_event(
    event=GATE_REFUSED,
    resource={"prefect.resource.id": "quality-model.quality-model"},
    payload={"summary": "Version 2 stays champion: the new model is worse on noise.", "reasons": []},
)
score()
"""


@contextmanager
def webhook() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """The port of an HTTP server, and what was posted there."""
    posted: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, posted


@contextmanager
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """The port of an SMTP server, and the messages that it took."""
    messages: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail\r\n")
            while line := self.rfile.readline():
                word = line[:4].upper().strip()
                if word == b"DATA":
                    self.wfile.write(b"354 go\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    messages.append(b"".join(lines).decode())
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, messages


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    with server:
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def test_failures_refusals_and_overdue_schedules_are_notified_once_each(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "server.log"
    env = environment(tmp_path) | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    env |= {"PREFECT_UI_URL": f"http://127.0.0.1:{port}"}
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    soon = (PROJECT / "prefect.yaml").read_text().replace("within: 172800", "within: 15")
    (tmp_path / "prefect.yaml").write_text(soon)

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    with (
        webhook() as (web, posted),
        mailbox() as (smtp, messages),
        started(sys.executable, "-m", *command, cwd=tmp_path, env=env, log=log) as server,
    ):
        wait_for("it answers", lambda: page(f"http://127.0.0.1:{port}/api/health"), process=server, log=log)
        env |= {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        run("-c", MAKE_BLOCKS, str(web), str(smtp))
        refused = run("-m", "tasks.alerts", "custom-webhook/theirs", code=2)
        assert "Error: The Prefect server has no block custom-webhook/theirs." in refused
        assert "No block was named." in run("-m", "tasks.alerts", code=2)
        for _ in range(2):  # again changes nothing
            told = run("-m", "tasks.alerts", "custom-webhook/ours", "slack-webhook/mail")
        assert told.count("-> custom-webhook/ours, slack-webhook/mail") == 5
        run("-c", EVENTS, code=1)

        def arrived(title: str) -> list[str]:
            return [one["text"] for one in posted if title in one["title"]]

        wait_for("the refusal", lambda: arrived("The gate refused"), process=server, log=log)
        wait_for("the failure", lambda: arrived("score: the run"), process=server, log=log)
        wait_for("the overdue schedule", lambda: arrived("daily scoring is overdue"), process=server, log=log)
        wait_for("the mails", lambda: len(messages) >= 3, process=server, log=log)
    assert arrived("The gate refused") == ["Version 2 stays champion: the new model is worse on noise."]
    (failure,) = arrived("score: the run")
    assert "the collection is gone" in failure and "/runs/flow-run/" in failure
    assert not arrived("weekly retraining")
    assert any("The gate refused a candidate" in message for message in messages)
    assert all("team@example.com" in message for message in messages)


def test_every_alert_has_a_name_and_words() -> None:
    alerts = parse_yaml((PROJECT / "prefect.yaml").read_text())["definitions"]["alerts"]
    assert len({alert["name"] for alert in alerts}) == len(alerts) == 5
    assert all(alert["subject"] and alert["body"] for alert in alerts)


@pytest.mark.parametrize("flow", ["retrain", "score"])
def test_alerts_name_flows_that_exist(flow: str) -> None:
    alerts = parse_yaml((PROJECT / "prefect.yaml").read_text())["definitions"]["alerts"]
    assert any(flow in str(alert["trigger"]) for alert in alerts)
    assert f'name="{flow}"' in (PROJECT / "flows" / f"{flow}.py").read_text()
