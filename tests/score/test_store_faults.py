"""What goes wrong with inputs in a real S3 server: it changes no row, or ends the job in one line."""

import threading
import time

import pytest

from quality_model.cli import run as run_command
from quality_model.core.stores import store_path
from quality_model.errors import StorageError, UsageError
from quality_model.score import store_reads
from tests.s3_server import READER, Fault, use_environment

from .conftest import rows_of, same_rows, upload, write_containers

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.CUT, Fault.LOST, Fault.SLOW])
def test_a_fault_that_passes_changes_no_row(bucket, proxy, folder, crops, run, tmp_path, fault) -> None:
    place = upload(folder, f"{bucket}/in")
    write_containers(tmp_path / "here", crops)
    upload(tmp_path / "here", f"{bucket}/c")
    for name, far, here in (
        ("images", place, folder),
        *((kind, store_path(f"{bucket}/c/{kind}"), tmp_path / "here" / kind) for kind in ("tar", "parquet")),
    ):
        proxy.heal()
        proxy.fail(fault, times=6, where="GET .*[.]", delay_s=0.2)
        run(far, tmp_path / f"{name}-far")
        run(here, tmp_path / f"{name}-here")
        assert same_rows(tmp_path / f"{name}-far", tmp_path / f"{name}-here"), name


def test_a_server_that_ends_and_comes_back_costs_nothing(
    bucket, s3, proxy, folder, run, tmp_path, undisturbed
) -> None:
    place = upload(folder, f"{bucket}/in")
    killed = threading.Event()

    def restart() -> None:
        s3.stop()  # in order: what it had just taken is then on the disk
        time.sleep(1)
        s3.start()

    restarting = threading.Thread(target=restart)

    def kill(request: str) -> None:
        if "010.jpg" in request and not killed.is_set():
            killed.set()
            restarting.start()
            time.sleep(0.5)

    proxy.on_request = kill
    run(place)
    restarting.join()
    assert rows_of(tmp_path / "scores")["error_detail"].dropna().to_list() == []


def test_credentials_that_expire_in_the_middle_end_the_job_which_resumes(
    bucket, proxy, folder, run, tmp_path
) -> None:
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.EXPIRED, where="GET .*/night/01[0-9].jpg")
    with pytest.raises(UsageError, match=r"credentials have expired .ExpiredToken") as refused:
        run(place)
    assert "\n" not in refused.value.problem
    assert not (tmp_path / "scores" / "job.json").exists()
    assert len(list((tmp_path / "scores" / "data").iterdir())) >= 1
    proxy.heal()
    assert run(place).parts_before >= 1
    run(folder, tmp_path / "local")
    assert same_rows(tmp_path / "scores", tmp_path / "local")


def test_objects_that_a_store_does_not_give_are_read_again_by_the_same_command(
    bucket, proxy, folder, run, tmp_path, impatient
) -> None:
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.THROTTLED, where="GET .*/day/00[0-9].jpg")
    proxy.fail(Fault.VANISHED, where="GET .*/day/011.jpg")
    run(place)
    assert rows_of(tmp_path / "scores")["error_code"].value_counts().to_dict() == {
        "download_failed": 5,
        "missing": 1,
    }
    proxy.heal()
    assert run(place).retried == 5


def test_a_store_that_gives_nothing_any_more_ends_the_job(
    bucket, proxy, folder, run, tmp_path, impatient, monkeypatch
) -> None:
    monkeypatch.setattr(store_reads, "STOPS_AFTER", 5)
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.THROTTLED, where="GET .*/night/")
    with pytest.raises(StorageError, match=r"gave none of the last 5 images .*SlowDown"):
        run(place)
    proxy.heal()
    assert run(place).planned == 20


def test_one_that_is_down_while_an_archive_is_read_ends_the_job(
    bucket, proxy, crops, run, tmp_path, impatient
) -> None:
    write_containers(tmp_path / "here", crops)
    for kind in ("tar", "zip", "parquet"):
        place = upload(tmp_path / "here" / kind, f"{bucket}/{kind}")
        proxy.fail(Fault.THROTTLED, where="GET .*/x[.]")
        with pytest.raises(StorageError, match=r"does not answer: the store is overloaded .SlowDown"):
            run(place, tmp_path / kind)
        proxy.heal()
        assert run(place, tmp_path / kind).errors == {}


@pytest.mark.parametrize(
    ("address", "changes", "said"),
    [
        ("s3://no-such-bucket/x", {}, "there is no bucket no-such-bucket"),
        ("{bucket}/nowhere", {}, "/nowhere is not there"),
        (
            "{bucket}/in",
            {"AWS_SECRET_ACCESS_KEY": "another-secret-0123456789"},
            "are refused (SignatureDoesNotMatch)",
        ),
        (
            "{bucket}/in",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "does not answer: no connection to 127.0.0.1:9",
        ),
        ("s3://some-key:some-secret@bucket/in", {}, "holds credentials"),
        ("{bucket}/in/a//b", {}, "has an empty part"),
    ],
)
def test_what_makes_a_store_unusable_is_one_line_without_a_secret(
    bucket, folder, tmp_path, capsys, monkeypatch, address, changes, said
) -> None:
    upload(folder, f"{bucket}/in")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    code = run_command(
        ["score", address.format(bucket=bucket), "--no-project", "--output", str(tmp_path / "out")]
    )
    message = capsys.readouterr().err
    assert code in (2, 10) and said in message
    assert len([line for line in message.splitlines() if line.startswith("Error: ")]) == 1
    assert message.count("\n") <= 3
    for secret in (*changes.values(), "some-secret", "some-key"):
        assert secret not in message or secret.startswith("http")
    assert not (tmp_path / "out").exists()


def test_keys_of_a_profile_are_found_and_a_profile_without_is_one_line(
    bucket, s3, folder, run, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("boto3")
    upload(folder, f"{bucket}/in")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text(
        f"[here]\naws_access_key_id={READER[0]}\naws_secret_access_key={READER[1]}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "here")
    assert run(store_path(f"{bucket}/in")).planned == 20
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(UsageError, match="the profile nowhere of AWS has no credentials"):
        run(store_path(f"{bucket}/in"), tmp_path / "other")


def test_no_credential_is_in_what_a_job_writes_or_says(
    bucket, s3, folder, run, tmp_path, monkeypatch, caplog
) -> None:
    upload(folder, f"{bucket}/in")
    use_environment(monkeypatch, s3.environment(READER))
    run(store_path(f"{bucket}/in"))
    written = [path.read_bytes() for path in (tmp_path / "scores").rglob("*") if path.is_file()]
    assert len(written) > 5
    for secret in READER:
        assert not [data for data in written if secret.encode() in data]
        assert secret not in caplog.text
