"""`score --on ray`: the result is that of one machine, whatever happens to nodes, actors and the driver."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from quality_model.core.stores import store_path
from tests.hostile import decoders_obey_images, hostile
from tests.s3_server import s3_server, use_environment, weed
from tests.servers import free_port

from .conftest import bytes_of, fill, outcome

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra `ray`")

PROJECT = Path(__file__).resolve().parents[2]
NUM_PARTS = 10
STORE = 80 << 20
SETTINGS = ["--model", "bundled", "--set", "score.shard_size=2", "--set", "limits.max_seconds=20"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of all processes that start here: this code, decoders that images harm, and no cluster."""
    with pytest.MonkeyPatch.context() as patch:
        decoders_obey_images(tmp_path_factory.mktemp("decoders") / "site", patch)
        patch.setenv("PYTHONPATH", str(PROJECT), prepend=":")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture
def work(tmp_path: Path, environment: None, crops: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of twenty images in the current directory, two of which no decoder survives."""
    monkeypatch.chdir(tmp_path)
    folder = fill(tmp_path / "images", crops)
    for name, behaviour in (("day/003.jpg", "crash"), ("night/010.jpg", "raise")):
        (folder / name).write_bytes(hostile((folder / name).read_bytes(), behaviour))
    return folder


@pytest.fixture
def start(work: Path) -> Start:
    """Begin `score` of that folder."""

    def start(output: str, *options: str, inputs: str = "images", **changes: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "quality_model", "score", inputs, "--output", output]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *SETTINGS, *options], env=os.environ | changes, **pipes)  # type: ignore[call-overload,no-any-return]

    return start


@pytest.fixture
def local(start: Start) -> dict[str, bytes]:
    """What `score` leaves without Ray."""
    done(start("local"))
    return left_by(Path("local"))


@pytest.fixture(scope="module")
def nodes(environment: None) -> Iterator[Any]:
    """A cluster of a head without CPUs."""
    from ray.cluster_utils import Cluster

    size = {"include_dashboard": False, "object_store_memory": STORE}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **size})
    try:
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def cluster(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same with three nodes of one CPU; RAY_ADDRESS names it."""
    while len(nodes.worker_nodes) < 3:
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
    nodes.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    return nodes


@pytest.fixture
def slow(work: Path) -> None:
    """Each part takes a second."""
    for path in sorted(work.rglob("*.jpg"))[1::2]:
        if path.name != "003.jpg":
            path.write_bytes(hostile(path.read_bytes(), "slow"))


def done(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What a process that has ended said."""
    said, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return said + errors


def left_by(output: Path) -> dict[str, bytes]:
    """What a result consists of; no half written file."""
    files = bytes_of(output)
    assert not [name for name in files if "partial" in name]
    return files


def wait_for_parts(output: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len([*(output / "parts").glob("*.json")]) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_of_this_machine_makes_what_one_process_makes_and_an_image_that_crashes_is_a_row(
    start, local, work
):
    said = done(start("there", "--on", "ray"))
    assert "20 inputs: 18 scored, 2 with an error code, in 10 parts" in said
    codes = outcome(Path("there"))
    assert (codes["day/003.jpg"], codes["night/010.jpg"]) == ("worker_died", "broken")
    assert left_by(Path("there")) == local


@pytest.mark.servers
def test_a_node_that_is_lost_costs_nothing_and_what_was_begun_elsewhere_is_resumed(
    cluster, slow, start, local
):
    process = start("there", "--on", "ray")
    wait_for_parts(Path("there"), 2, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said = done(process)
    assert "Ray lost a node" in said and "(0 from an earlier run)" in said
    assert left_by(Path("there")) == local
    shutil.copytree("local", "part")
    for name in ("job.json", "data/part-00004.parquet", "parts/part-00007.json"):
        (Path("part") / name).unlink()
    assert "(8 from an earlier run)" in done(start("part", "--on", "ray"))
    assert left_by(Path("part")) == local


@pytest.mark.servers
@pytest.mark.parametrize(
    ("end", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_driver_that_ends_leaves_whole_parts_and_the_same_command_resumes_it_anywhere(
    cluster, slow, start, local, end, code
):
    process = start("there", "--on", "ray")
    wait_for_parts(Path("there"), 2, process)
    process.send_signal(end)
    done(process, code)
    assert not Path("there/job.json").exists()
    again = done(start("there", "--on", "ray"))
    assert int(re.findall(r"\((\d+) from an earlier run", again)[0]) >= 2
    assert left_by(Path("there")) == local


@pytest.mark.servers
def test_a_part_that_costs_every_actor_is_given_up_when_all_others_are_made(cluster, start, work):
    (work / "night/004.jpg").write_bytes(hostile((work / "night/004.jpg").read_bytes(), "fatal"))
    said = done(start("there", "--on", "ray"), 10)
    assert "1 of 10 parts were lost, each with three nodes or processes of Ray: 7." in said
    assert len([*Path("there/parts").glob("*.json")]) == NUM_PARTS - 1
    assert not Path("there/job.json").exists()


@pytest.mark.servers
def test_an_update_and_rows_that_are_read_again_are_those_of_one_process(cluster, start, work, crops):
    for name in ("there", "here"):
        done(start(name))
    (work / "day/001.jpg").write_bytes(crops[30])
    (work / "new.jpg").write_bytes(crops[31])
    (work / "night/000.jpg").unlink()
    os.utime(work / "new.jpg", (1_000_000_000, 1_000_000_000))
    done(start("here"))
    said = done(start("there", "--on", "ray"))
    assert "1 new" in said
    assert left_by(Path("there")) == left_by(Path("here"))


@pytest.mark.servers
def test_a_node_with_another_version_of_the_package_is_refused_in_one_line(cluster, start, work, tmp_path):
    shutil.copytree(PROJECT / "quality_model", tmp_path / "other" / "quality_model")
    with (tmp_path / "other/quality_model/records.py").open("a") as file:
        file.write("# another version\n")
    process = start("there", "--on", "ray", PYTHONPATH=f"{tmp_path / 'other'}:{os.environ['PYTHONPATH']}")
    said = done(process, 2)
    assert re.search(r"Error: Node .* has quality-model .*, and this job is of ", said)
    assert "Install the same version on all nodes" in said and "Traceback" not in said


@pytest.mark.servers
def test_actors_take_the_gpu_of_a_node_and_say_what_the_model_is_there(cluster, start, local):
    """The GPU is one in name, so they score by the CPU: the result is the same."""
    node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
    try:
        done(start("there", "--on", "ray"))
    finally:
        cluster.remove_node(node)
    assert left_by(Path("there")) == local


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("nowhere", "--on 'nowhere' is no place to run"),
        ("ray://", "--on 'ray://' is no place to run"),
        ("ray://127.0.0.1:{port}", "No connection to Ray at ray://127.0.0.1"),
    ],
)
def test_a_wrong_address_is_one_line_and_nothing_is_written(start, on, message):
    said = done(start("there", "--on", on.format(port=free_port())), 2)
    assert message in said and "Traceback" not in said
    assert not Path("there").exists()


def test_options_that_mean_nothing_on_a_cluster_are_refused(start):
    assert "--part does not go with --on" in done(start("there", "--on", "ray", "--part", "1/2"), 2)


@pytest.mark.servers
@pytest.mark.skipif(
    find_spec("obstore") is None or weed() is None, reason="no object store: the extra `stores`"
)
def test_inputs_and_output_may_be_in_an_object_store(start, local, work, tmp_path, monkeypatch):
    with s3_server(tmp_path / "server") as server:
        server.make_bucket("bucket")
        use_environment(monkeypatch, server.environment())
        images = store_path("s3://bucket/images")
        for path in sorted(work.rglob("*.jpg")):
            (images / path.relative_to(work).as_posix()).write_bytes(path.read_bytes())
        done(start("s3://bucket/scores", "--on", "ray", inputs="s3://bucket/images"))
        found = server.objects("bucket")
    parts = {name: data for name, data in local.items() if name.startswith("report/thumb")}
    assert {name: found[f"scores/{name}"] for name in parts} == parts
    assert "scores/job.json" in found and len([name for name in found if "scores/data/" in name]) == NUM_PARTS
