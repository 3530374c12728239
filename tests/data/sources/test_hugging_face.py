"""The real client against a hub on loopback."""

import zipfile
from pathlib import Path

import pytest

from quality_model.data.sources import hugging_face
from quality_model.data.sources.table import ImagesTable
from quality_model.errors import SourceError

from .conftest import parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_images_are_streamed_with_their_original_bytes(hub, client, source, images, tmp_path):
    hub.add("someone/photos", images)
    summary = client.download(source(dataset="someone/photos", num_images=48), tmp_path)
    assert summary["readable"] == 48
    table = ImagesTable.open(tmp_path, verify=True)
    assert {image.data for image in table.iter_images()} == set(images)


def test_the_revision_becomes_a_commit_in_the_marker_and_in_every_origin(
    hub, client, source, images, tmp_path
):
    hub.add("someone/pinned", images)
    summary = client.download(source(dataset="someone/pinned", num_images=5, revision="main"), tmp_path)
    assert summary["revision"] == COMMIT
    assert summary["source"] == "someone/pinned"
    origins = ImagesTable.open(tmp_path).frame()["origin"]
    assert origins.str.startswith(f"hf://datasets/someone/pinned@{COMMIT}/train?shuffle=42#").all()
    asked_for_main = [line for line in hub.requests if "/main" in line]
    assert asked_for_main == ["GET /api/datasets/someone/pinned/revision/main"]


def test_the_seed_decides_the_choice_and_the_same_seed_gives_the_same_bytes(
    hub, client, source, images, tmp_path
):
    hub.add("someone/shuffled", images)
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        section = source(dataset="someone/shuffled", num_images=12, seed=seed)
        client.download(section, tmp_path / name)
        hashes.append(list(ImagesTable.open(tmp_path / name).frame()["sha256"]))
    assert hashes[0] == hashes[1]
    assert set(hashes[0]) != set(hashes[2])
    assert (tmp_path / "a/images.parquet").read_bytes() == (tmp_path / "b/images.parquet").read_bytes()


def test_another_split_can_be_chosen(hub, client, source, images, tmp_path):
    hub.add("someone/splits", images[:30])
    hub.add("someone/splits", images[30:], split="test")
    client.download(source(dataset="someone/splits", split="test", num_images=100), tmp_path)
    assert {p.data for p in ImagesTable.open(tmp_path).iter_images()} == set(images[30:])


@pytest.mark.parametrize("column", ["img", "photo", "image", "file"])
def test_columns_with_another_usual_name_are_found(hub, client, source, images, tmp_path, column):
    hub.add(f"someone/with-{column}", images[:9], column=column)
    summary = client.download(source(dataset=f"someone/with-{column}", num_images=9), tmp_path)
    assert summary["readable"] == 9


def test_a_column_with_an_unusual_name_can_be_chosen(hub, client, source, images, tmp_path):
    hub.add("someone/odd", images[:9], column="pixels")
    refused = client.download(source(dataset="someone/odd"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "pixels, label" in refused["text"] and "--image-column" in refused["text"]
    summary = client.download(source(dataset="someone/odd", image_column="pixels", num_images=9), tmp_path)
    assert summary["readable"] == 9


def test_a_column_that_is_not_there_is_refused_with_those_that_are(hub, client, source, images, tmp_path):
    hub.add("someone/columns", images[:9])
    refused = client.download(source(dataset="someone/columns", image_column="imgae"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "'imgae'" in refused["text"] and "image, label" in refused["text"]


def test_a_column_without_images_is_refused(hub, client, source, images, tmp_path):
    hub.add("someone/labels", images[:9])
    refused = client.download(source(dataset="someone/labels", image_column="label"), tmp_path)
    assert refused["error"] == "SourceError"
    assert not list(tmp_path.iterdir())


def test_an_unknown_split_is_refused_with_those_that_are_there(hub, client, source, images, tmp_path):
    hub.add("someone/split", images[:9])
    hub.add("someone/split", images[9:12], split="test")
    refused = client.download(source(dataset="someone/split", split="valid"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "'valid'" in refused["text"] and "train, test" in refused["text"]


def test_an_unknown_data_set_is_refused(hub, client, source, tmp_path):
    refused = client.download(source(dataset="someone/nothing"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "no dataset someone/nothing" in refused["text"]


def test_an_unknown_revision_is_refused(hub, client, source, images, tmp_path):
    hub.add("someone/revised", images[:9])
    refused = client.download(source(dataset="someone/revised", revision="v9"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "revision" in refused["text"]


def test_broken_rows_are_kept_with_a_reason_and_duplicates_dropped(hub, client, source, images, tmp_path):
    cells = [images[0], images[0], b"<html>not found</html>", images[1][:200], None, images[2]]
    hub.add("someone/mixed", cells)
    summary = client.download(source(dataset="someone/mixed", num_images=50), tmp_path)
    assert summary["readable"] == 2
    assert summary["duplicates"] == 1
    assert sum(summary["unreadable"].values()) == 3
    assert summary["unreadable"]["not_an_image"] == 1 and summary["unreadable"]["missing"] == 1
    assert summary["rows"] == 5


def test_a_row_cannot_make_us_read_a_file_of_this_machine(hub, client, source, images, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(images[0])
    prefix = f"hf://datasets/someone/paths@{COMMIT}"
    names = [str(secret), f"file://{secret}", f"file://{secret}::{prefix}/x.png", f"{prefix}/x.png"]
    names.append(f"{prefix}/../../../someone/private/resolve/main/x.png")
    hub.add("someone/paths", [*names, images[1]])
    summary = client.download(source(dataset="someone/paths", num_images=9), tmp_path / "out")
    assert summary["unreadable"] == {"missing": 1, "outside_folder": 4}
    assert [p.data for p in ImagesTable.open(tmp_path / "out").iter_images()].count(b"") == 5


def test_a_row_may_name_a_file_of_its_own_data_set(hub, client, source, images, tmp_path):
    hub.add("someone/files", [f"hf://datasets/someone/files@{COMMIT}/more/one.png"])
    hub.repositories["someone/files"]["more/one.png"] = images[0]
    client.download(source(dataset="someone/files", num_images=9), tmp_path)
    assert [p.data for p in ImagesTable.open(tmp_path).iter_images()] == [images[0]]


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_connection_that_breaks_once_is_taken_up_again(hub, client, source, images, tmp_path, how):
    hub.add("someone/flaky", images)
    hub.cut_after, hub.cuts, hub.how = 500, 2, how
    summary = client.download(source(dataset="someone/flaky", num_images=48), tmp_path)
    assert summary["readable"] == 48
    assert hub.cuts == 0


@pytest.mark.parametrize(
    ("how", "errors"),
    [("closed", ["NetworkUnavailableError"]), ("short", ["SourceError", "NetworkUnavailableError"])],
)
def test_an_interrupted_download_leaves_nothing_that_looks_complete_and_can_be_repeated(
    hub, client, source, images, tmp_path, how, errors
):
    hub.add("someone/cut", images)
    section = source(dataset="someone/cut", num_images=48)
    hub.cut_after, hub.how = 500, how
    refused = client.download(section, tmp_path)
    assert refused["error"] in errors
    assert not list(tmp_path.iterdir())
    assert len(hub.requests) < 40
    hub.behave()
    assert client.download(section, tmp_path)["readable"] == 48
    assert len(ImagesTable.open(tmp_path, verify=True)) == 48


def test_a_download_that_fails_leaves_an_earlier_one_as_it_was(hub, client, source, images, tmp_path):
    hub.add("someone/before", images[:9])
    hub.add("someone/after", images)
    client.download(source(dataset="someone/before", num_images=9), tmp_path)
    hub.cut_after = 500
    assert "error" in client.download(source(dataset="someone/after"), tmp_path)
    assert len(ImagesTable.open(tmp_path, verify=True)) == 9


def test_a_hub_that_is_down_is_named_with_what_works_offline(hub, client, source, tmp_path):
    hub.status = 503
    refused = client.download(source(dataset="food101"), tmp_path)
    assert refused["error"] == "NetworkUnavailableError"
    assert "sample-photos" in refused["text"] and "./folder" in refused["text"]
    assert len(hub.requests) == 3


def test_a_hub_that_refuses_is_not_asked_again(hub, client, source, tmp_path):
    hub.status = 403
    refused = client.download(source(dataset="someone/forbidden"), tmp_path)
    assert refused["error"] == "SourceError"
    assert len(hub.requests) == 1


def test_a_parquet_file_that_is_none_is_refused(hub, client, source, tmp_path: Path):
    hub.repositories["someone/garbage"] = {"data/train-00000-of-00001.parquet": b"PAR1" + bytes(500)}
    refused = client.download(source(dataset="someone/garbage"), tmp_path)
    assert refused["error"] == "SourceError"
    assert "someone/garbage" in refused["text"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97, 0.999])
def test_a_byte_that_was_changed_on_the_way_is_never_taken_for_an_image(
    hub, client, source, images, tmp_path, share
):
    name = "data/train-00000-of-00001.parquet"
    data = bytearray(parquet(images))
    data[int(share * len(data))] ^= 0x10
    hub.repositories["someone/changed"] = {name: bytes(data)}
    answer = client.download(source(dataset="someone/changed", num_images=48), tmp_path)
    if "error" in answer:
        assert answer["error"] == "SourceError"
        assert not list(tmp_path.iterdir())
    else:
        table = ImagesTable.open(tmp_path, verify=True)
        assert {p.data for p in table.iter_images() if p.reason is None} <= set(images)


def test_a_preset_knows_its_repository_and_column(hub, client, source, images, tmp_path):
    hub.add("uoft-cs/cifar100", images[:9], column="img")
    summary = client.download(source(dataset="cifar100", num_images=9), tmp_path)
    assert summary["source"] == "uoft-cs/cifar100"
    assert summary["readable"] == 9


@pytest.mark.parametrize(
    "error", [TypeError("bug"), KeyError("bug"), AttributeError("bug"), AssertionError("bug")]
)
def test_an_error_that_no_broken_file_explains_is_not_taken_for_one_of_the_source(error):
    with pytest.raises(type(error)) as raised, hugging_face._explained("someone/photos"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [zipfile.BadZipFile("cut"), EOFError(), ValueError("no Parquet")])
def test_an_error_of_a_broken_file_is_one_of_the_source(error):
    with pytest.raises(SourceError, match="someone/photos"), hugging_face._explained("someone/photos"):
        raise error
