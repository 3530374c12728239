"""Each cause has its exit code, the docs list all of them, and a traceback means a bug."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch

from quality_model import errors
from quality_model.cli import EXIT_INTERRUPTED, EXIT_READER_GONE, EXIT_TERMINATED, cli, run

from .conftest import PROJECT, Job
from .processes import run_command

Jobs = Callable[[str], Job]
Fault = Callable[[], object]


def all_errors() -> list[type[errors.QualityModelError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.QualityModelError)
    ]


def test_the_docs_and_the_tree_of_errors_have_every_exit_code() -> None:
    text = (PROJECT / "docs" / "reliability.md").read_text()
    section = text.split("## Exit codes")[1].split("\n## ")[0]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    own = {kind.exit_code for kind in all_errors()}
    assert codes == sorted({0, *own, EXIT_INTERRUPTED, EXIT_READER_GONE, EXIT_TERMINATED})
    for kind in all_errors():
        has_own_code = "exit_code" in vars(kind) and kind is not errors.QualityModelError
        code = rf"\s+{kind.exit_code}\b" if has_own_code else ""
        assert re.search(rf"\b{kind.__name__}\b{code}", errors.__doc__ or ""), kind


CASES: dict[str, tuple[list[str], int, str]] = {
    "a parameter out of range": (["download", "--num-images", "0"], 2, "source.num_images = "),
    "a model that did not pass the gate": (["register", "--model", "model"], 3, "The gate has not decided"),
    "too many unreadable inputs": (
        ["score", "photos", "--output", "scores", "--max-error-share", "0"], 4, "1 x not_an_image",
    ),
    "inputs that all fail": (
        ["score", "broken", "--output", "none"], 4, "None of the 2 inputs could be scored",
    ),
    "a folder without images": (["download", "--dataset", "./nothing"], 5, "holds no images"),
    "a table that breaks its contract": (
        ["validate-images", "--set", "validation.min_images=99"], 6, "99",
    ),
    "too little to train on": (["train", "--data-dir", "unsplit"], 7, "validate on"),
    "a model that does not load": (["predict", "--model", "params.yaml", "photos/00.png"], 8, "params.yaml"),
    "a version that does not exist": (["promote", "9"], 9, "quality-model"),
    "a stage that was not run": (["generate", "--data-dir", "nowhere"], 10, "nowhere"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with something wrong for every case."""
    project = jobs("generate").project(tmp_path_factory.mktemp("cases"))
    (project / "photos" / "page.jpg").write_bytes(b"<html>not found</html>")
    (project / "nothing").mkdir()
    (project / "broken").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (project / "broken" / name).write_bytes(b"<html>not found</html>")
    shares = ["--validation-share", "0", "--test-share", "0"]
    ended = run_command(project, ["generate", "--output", "unsplit", *shares])
    assert ended.code == 0, ended.output
    return project


@pytest.mark.parametrize("case", CASES)
def test_each_cause_ends_with_its_code_a_message_and_no_traceback(place: Path, case: str) -> None:
    arguments, code, words = CASES[case]
    ended = run_command(place, arguments)
    assert ended.code == code, ended.output
    assert words in ended.output
    assert "Error: " in ended.output and "Traceback" not in ended.output


def test_everything_is_written_before_too_many_errors_fail_the_job(place: Path) -> None:
    shutil.rmtree(place / "scores", ignore_errors=True)
    assert run_command(place, CASES["too many unreadable inputs"][0]).code == 4
    assert (place / "scores" / "job.json").exists()


def out_of_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def broken_pipe_of_our_own() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        os.write(writing, b"x")
    finally:
        os.close(writing)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(lambda: bytearray(2**62), 12), (out_of_device_memory, 12), (Path("/proc/self/mem").read_bytes, 10)],
    ids=["memory", "device", "file"],
)
def test_a_refusal_of_the_system_is_an_error_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
    code: int,
) -> None:
    monkeypatch.setitem(cli.commands, "fault", click.Command("fault", callback=fault))
    assert run(["fault"]) == code
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.parametrize(
    "fault",
    [lambda: {}["unforeseen"], lambda: os.fstat(10**6), broken_pipe_of_our_own],
    ids=["key", "descriptor", "pipe"],
)
def test_a_bug_has_a_traceback(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    monkeypatch.setitem(cli.commands, "fault", click.Command("fault", callback=fault))
    with pytest.raises(Exception) as raised:
        run(["fault"])
    assert not isinstance(raised.value, errors.QualityModelError | click.ClickException)
