"""The cores that a process may use, with made files of the kernel."""

import os
from pathlib import Path

import pytest

from quality_model.core import system
from quality_model.core.system import limit_threads, num_cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)


def kernel(root: Path, group: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder whose ``proc`` says these groups and mounts, with files below ``sys/fs/cgroup``."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(group)
    (root / "proc" / "self" / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("150000 100000\n", 2),
        ("400000 100000\n", 4),
        ("6400001 100000\n", 64),
        ("9900000 100000\n", 64),
        ("max 100000\n", 64),
        ("", 64),
        ("nonsense\n", 64),
        ("100000 0\n", 64),
        ("0 100000\n", 64),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, quota: str, cores: int) -> None:
    """Inside a container its own group is the root of what is mounted."""
    assert num_cores(kernel(tmp_path, "0::/\n", V2, {"cpu.max": quota})) == cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"user.slice/job.scope/cpu.max": "200000 100000"}, 2),
        ({"user.slice/job.scope/cpu.max": "max 100000", "user.slice/cpu.max": "300000 100000"}, 3),
        ({"user.slice/job.scope/cpu.max": "200000 100000", "user.slice/cpu.max": "100000 100000"}, 1),
        ({"user.slice/job.scope/cpu.max": "300000 100000", "user.slice/cpu.max": "900000 100000"}, 3),
        ({"user.slice/job.scope/cpu.stat": "", "other.slice/cpu.max": "100000 100000"}, 64),
    ],
)
def test_the_smallest_quota_of_a_group_and_its_parents_counts(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    assert num_cores(kernel(tmp_path, "0::/user.slice/job.scope\n", V2, files)) == cores


@pytest.mark.parametrize(
    ("mounted", "group", "folder"),
    [
        ("/", "/docker/abc", "docker/abc/"),
        ("/", "/docker/abc/job", "docker/abc/"),
        ("/docker/abc", "/docker/abc", ""),
        ("/docker/abc", "/docker/abc/job", "job/"),
        ("/docker/abc", "/somewhere/else", ""),
        ("/", "/../outside", ""),
    ],
)
def test_the_quota_of_cgroup_v1_counts_seen_from_inside_or_outside_a_container(
    tmp_path: Path, mounted: str, group: str, folder: str
) -> None:
    groups = f"5:cpu,cpuacct:{group}\n4:cpuset:/\n1:name=systemd:{group}\n0::/\n"
    place = f"cpu,cpuacct/{folder}"
    files = {f"{place}cpu.cfs_quota_us": "250000\n", f"{place}cpu.cfs_period_us": "100000\n"}
    assert num_cores(kernel(tmp_path, groups, V1.format(mounted=mounted), files)) == 3


def test_without_a_quota_the_affinity_alone_counts(tmp_path: Path) -> None:
    assert num_cores(tmp_path / "without cgroups") == 64
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert num_cores(kernel(tmp_path, "5:cpu,cpuacct:/\n", V1.format(mounted="/"), files)) == 64


def test_threads_of_numeric_libraries_keep_to_a_quota_unless_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for cores, given, expected in ((2, "5", "5"), (2, None, "2"), (64, None, None)):
        monkeypatch.setattr(system, "num_cores", lambda cores=cores: cores)
        monkeypatch.delenv("OMP_NUM_THREADS")
        if given is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        limit_threads()
        assert os.environ.get("OMP_NUM_THREADS") == expected
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    limit_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
