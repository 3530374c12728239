"""The real client against a stand-in for the hub on loopback."""

import zipfile
from pathlib import Path

import pytest

from quality_model.core import storage
from quality_model.data.hugging_face import hub_errors
from quality_model.data.images_table import ImagesTable
from quality_model.errors import SourceError

from .stand_in_hub import COMMIT, parquet


def bytes_of(folder: Path) -> list[bytes]:
    """The bytes of each row of a whole table."""
    storage.require_sealed(folder, verify=True)
    with ImagesTable(folder) as table:
        return [image.data for image in table.images()]


def test_images_are_streamed_with_their_original_bytes(hub, client, source, encoded, tmp_path):
    hub.add("someone/photos", encoded)
    summary = client.download(source(dataset="someone/photos", num_images=48), tmp_path)
    assert summary["readable"] == 48
    assert set(bytes_of(tmp_path)) == set(encoded)


def test_the_revision_becomes_a_commit_in_the_marker_and_in_every_origin(
    hub, client, source, encoded, tmp_path
):
    hub.add("someone/pinned", encoded)
    summary = client.download(source(dataset="someone/pinned", num_images=5, revision="main"), tmp_path)
    assert summary["revision"] == COMMIT
    assert summary["source"] == "someone/pinned"
    with ImagesTable(tmp_path) as table:
        origins = table.frame()["origin"]
    assert origins.str.startswith(f"hf://datasets/someone/pinned@{COMMIT}/train?shuffle=42#").all()
    asked_for_main = [line for line in hub.requests if "/main" in line]
    assert asked_for_main == ["GET /api/datasets/someone/pinned/revision/main"]


def test_the_seed_decides_the_choice_and_the_same_seed_gives_the_same_bytes(
    hub, client, source, encoded, tmp_path
):
    hub.add("someone/shuffled", encoded)
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        section = source(dataset="someone/shuffled", num_images=12, seed=seed)
        client.download(section, tmp_path / name)
        hashes.append(bytes_of(tmp_path / name))
    assert hashes[0] == hashes[1]
    assert set(hashes[0]) != set(hashes[2])
    assert (tmp_path / "a/images.parquet").read_bytes() == (tmp_path / "b/images.parquet").read_bytes()


@pytest.mark.parametrize(
    ("repository", "kept_as", "request_"),
    [
        *[(f"someone/{column}", {"column": column}, {}) for column in ("img", "photo", "file")],
        ("someone/odd", {"column": "pixels"}, {"image_column": "pixels"}),
        ("someone/splits", {"split": "test"}, {"split": "test"}),
        ("uoft-cs/cifar100", {"column": "img"}, {"dataset": "cifar100"}),
    ],
)
def test_usual_columns_and_those_of_presets_are_found_and_others_and_splits_can_be_chosen(
    hub, client, source, encoded, tmp_path, repository, kept_as, request_
):
    if "split" in kept_as:
        hub.add(repository, encoded[9:])
    hub.add(repository, encoded[:9], **kept_as)
    summary = client.download(source(**{"dataset": repository, "num_images": 100, **request_}), tmp_path)
    assert summary["source"] == repository
    assert set(bytes_of(tmp_path)) == set(encoded[:9])


@pytest.mark.parametrize(
    ("request_", "mentioned"),
    [
        ({"dataset": "someone/unusual"}, ["pixels, label", "--image-column"]),
        ({"dataset": "someone/usual", "image_column": "imgae"}, ["'imgae'", "image, label"]),
        ({"dataset": "someone/usual", "image_column": "label"}, ["someone/usual"]),
        ({"dataset": "someone/usual", "split": "valid"}, ["'valid'", "train, test"]),
        ({"dataset": "someone/usual", "revision": "v9"}, ["revision"]),
        ({"dataset": "someone/nothing"}, ["no dataset someone/nothing"]),
        ({"dataset": "someone/garbage"}, ["someone/garbage"]),
    ],
)
def test_a_request_that_the_hub_cannot_meet_is_refused_with_what_there_is(
    hub, client, source, encoded, tmp_path, request_, mentioned
):
    hub.add("someone/unusual", encoded[:9], column="pixels")
    hub.add("someone/usual", encoded[:9])
    hub.add("someone/usual", encoded[9:12], split="test")
    hub.repositories["someone/garbage"] = {"data/train-00000-of-00001.parquet": b"PAR1" + bytes(500)}
    refused = client.download(source(**request_), tmp_path)
    assert refused["error"] == "SourceError"
    assert [words for words in mentioned if words not in refused["text"]] == []
    assert not list(tmp_path.iterdir())


def test_broken_rows_are_kept_with_a_reason_and_duplicates_dropped(hub, client, source, encoded, tmp_path):
    cells = [encoded[0], encoded[0], b"<html>not found</html>", encoded[1][:200], None, encoded[2]]
    hub.add("someone/mixed", cells)
    summary = client.download(source(dataset="someone/mixed", num_images=50), tmp_path)
    assert summary["readable"] == 2
    assert summary["duplicates"] == 1
    assert sum(summary["unreadable"].values()) == 3
    assert summary["unreadable"]["not_an_image"] == 1 and summary["unreadable"]["missing"] == 1
    assert summary["rows"] == 5


def test_a_row_cannot_make_us_read_a_file_of_this_machine(hub, client, source, encoded, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded[0])
    prefix = f"hf://datasets/someone/paths@{COMMIT}"
    names = [str(secret), f"file://{secret}", f"file://{secret}::{prefix}/x.png", f"{prefix}/x.png"]
    names.append(f"{prefix}/../../../someone/private/resolve/main/x.png")
    hub.add("someone/paths", [*names, encoded[1]])
    summary = client.download(source(dataset="someone/paths", num_images=9), tmp_path / "out")
    assert summary["unreadable"] == {"missing": 1, "outside_folder": 4}
    assert bytes_of(tmp_path / "out").count(b"") == 5


def test_a_row_may_name_a_file_of_its_own_data_set(hub, client, source, encoded, tmp_path):
    hub.add("someone/files", [f"hf://datasets/someone/files@{COMMIT}/more/one.png"])
    hub.repositories["someone/files"]["more/one.png"] = encoded[0]
    client.download(source(dataset="someone/files", num_images=9), tmp_path)
    assert bytes_of(tmp_path) == [encoded[0]]


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_breaks_once_is_taken_up_again(hub, client, source, encoded, tmp_path, how):
    hub.add("someone/flaky", encoded)
    hub.cut_after, hub.cuts, hub.how = 500, 2, how
    summary = client.download(source(dataset="someone/flaky", num_images=48), tmp_path)
    assert summary["readable"] == 48
    assert hub.cuts == 0


@pytest.mark.parametrize(
    ("how", "errors"),
    [("closed", ["NetworkUnavailableError"]), ("short", ["SourceError", "NetworkUnavailableError"])],
)
def test_an_interrupted_download_leaves_nothing_that_looks_complete_and_can_be_repeated(
    hub, client, source, encoded, tmp_path, how, errors
):
    hub.add("someone/cut", encoded)
    section = source(dataset="someone/cut", num_images=48)
    hub.cut_after, hub.how = 500, how
    refused = client.download(section, tmp_path)
    assert refused["error"] in errors
    assert not list(tmp_path.iterdir())
    assert len(hub.requests) < 40
    hub.behave()
    assert client.download(section, tmp_path)["readable"] == 48
    assert len(bytes_of(tmp_path)) == 48


@pytest.mark.parametrize(
    ("status", "error", "num_requests"), [(503, "NetworkUnavailableError", 3), (403, "SourceError", 1)]
)
def test_a_hub_that_does_not_answer_is_asked_again_and_one_that_refuses_is_not(
    hub, client, source, tmp_path, status, error, num_requests
):
    hub.status = status
    refused = client.download(source(dataset="food101"), tmp_path)
    assert refused["error"] == error
    assert len(hub.requests) == num_requests
    assert status == 403 or ("sample-photos" in refused["text"] and "./folder" in refused["text"])


@pytest.mark.parametrize("share", [0.02, 0.6, 0.97, 0.999])
def test_a_byte_that_was_changed_on_the_way_is_never_taken_for_an_image(
    hub, client, source, encoded, tmp_path, share
):
    name = "data/train-00000-of-00001.parquet"
    data = bytearray(parquet(encoded))
    data[int(share * len(data))] ^= 0x10
    hub.repositories["someone/changed"] = {name: bytes(data)}
    answer = client.download(source(dataset="someone/changed", num_images=48), tmp_path)
    if "error" in answer:
        assert answer["error"] == "SourceError"
        assert not list(tmp_path.iterdir())
    else:
        with ImagesTable(tmp_path) as table:
            assert {image.data for image in table.images() if image.error_code is None} <= set(encoded)


@pytest.mark.parametrize("bug", [TypeError("bug"), KeyError("bug"), AttributeError("bug")])
def test_an_error_that_no_broken_file_explains_stays_a_bug_with_its_traceback(bug):
    with pytest.raises(type(bug)) as raised, hub_errors("someone/photos"):
        raise bug
    assert raised.value is bug


def test_an_error_of_a_broken_file_is_one_of_the_source_and_keeps_its_cause():
    broken = zipfile.BadZipFile("cut")
    with pytest.raises(SourceError, match="someone/photos") as raised, hub_errors("someone/photos"):
        raise broken
    assert raised.value.__cause__ is broken


def test_the_settings_of_the_process_are_the_same_after_a_download(hub, client, source, encoded, tmp_path):
    """The client's process reports `datasets.config` and its environment with each answer."""
    hub.add("someone/settings", encoded[:9])
    answers = [
        client.download(source(dataset="someone/settings", num_images=9), tmp_path / name) for name in "ab"
    ]
    assert answers[0]["settings"] == answers[1]["settings"] == answers[1]["settings_before"]
