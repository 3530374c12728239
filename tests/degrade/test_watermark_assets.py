"""The pack of typefaces, lettering and logos: whole, verified, licensed, and nothing in it is empty."""

import re
import shutil
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from quality_model.degrade.calibrated import lettering as assets
from quality_model.errors import CorruptError

LICENCES = assets.PACK.with_name("WATERMARK_ASSETS.md")
TEXTS = {"latin": "Sample 2024", "cyrillic": "Съёмка Фото"}
LETTERS = {
    "latin": string.ascii_letters + string.digits + ".,:-/@#&'()!©",
    "cyrillic": "".join(map(chr, range(0x410, 0x450))) + "Ёё",
}


def drawn(name: str, text: str) -> bytes:
    return bytes(assets.typeface(name, 32).getmask(text))


def is_box(name: str, character: str) -> bool:
    """Whether a typeface draws a character as it draws those that it lacks."""
    return drawn(name, character) == drawn(name, "\uffff")


def text_for(name: str) -> str:
    return next(text for subset, text in TEXTS.items() if f"-{subset}-" in name)


def test_every_typeface_draws_and_few_draw_alike() -> None:
    drawings = {name: drawn(name, text_for(name)) for name in assets.typefaces()}
    assert 180 <= len(drawings) <= 240
    assert all(map(any, drawings.values()))
    assert max(Counter(drawings.values()).values()) == 1


@pytest.mark.parametrize("subset", TEXTS)
def test_no_typeface_lacks_a_letter_of_its_alphabet(subset: str) -> None:
    letters = LETTERS[subset]
    names = [name for name in assets.typefaces() if f"-{subset}-" in name]
    lacking = {name: [c for c in letters if not any(drawn(name, c)) or is_box(name, c)] for name in names}
    assert len(names) > 10
    assert not {name: missing for name, missing in lacking.items() if missing}


def test_a_third_of_the_typefaces_is_bold() -> None:
    names = assets.typefaces()
    assert 0.3 < sum("-700-" in name for name in names) / len(names) < 0.5


def test_every_logo_and_every_phrase_has_ink() -> None:
    logos, lettering = assets.logos(), assets.phrases()
    assert logos.shape == (700, 96, 96)
    assert logos.dtype == np.uint8
    assert (logos.max((1, 2)) > 200).all()
    assert len(lettering) >= 250
    for mask in lettering:
        assert mask.shape[0] == 64
        assert mask.max() > 200
        assert mask[:, 0].any()
        assert mask[:, -1].any()


def test_what_is_shared_cannot_be_written() -> None:
    for array in (assets.logos(), *assets.phrases()):
        assert not array.flags.writeable


def test_a_missing_pack_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "watermark_assets.zip"
    with pytest.raises(
        CorruptError, match=r"watermark_assets\.zip.*\n.*Install quality-model again"
    ) as error:
        assets.open_pack(missing)
    assert str(missing) in str(error.value)


@pytest.mark.parametrize("at", [0, 2_000_000, -1])
def test_a_changed_pack_is_an_error_that_shows_both_hashes(tmp_path: Path, at: int) -> None:
    changed = tmp_path / "watermark_assets.zip"
    content = bytearray(assets.PACK.read_bytes())
    content[at] ^= 1
    changed.write_bytes(content)
    with pytest.raises(CorruptError, match=assets.PACK_SHA256):
        assets.open_pack(changed)


def test_a_copy_of_the_pack_opens(tmp_path: Path) -> None:
    copy = Path(shutil.copy(assets.PACK, tmp_path))
    assert assets.open_pack(copy).namelist() == assets.open_pack().namelist()


def test_the_pack_is_small() -> None:
    assert assets.PACK.stat().st_size <= 6_000_000


def test_every_file_of_the_pack_is_in_the_licences() -> None:
    text = LICENCES.read_text(encoding="utf-8")
    listed = set(re.findall(r"`([\w/.-]+\.(?:woff|png|json|md))`", text))
    assert set(assets.open_pack().namelist()) == listed
    assert assets.open_pack().read("LICENSES.md").decode() == text
    families = [row for row in text.splitlines() if ".woff` |" in row]
    allowed = re.compile(r"\| (Apache-2\.0|OFL-1\.1|UFL-1\.0) \| [^|]*(?:\\\|[^|]*)*[^| ]+ \|")
    assert all(allowed.search(row) for row in families)
