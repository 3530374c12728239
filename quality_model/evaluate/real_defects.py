"""Real defects that nobody here made: a folder of images with them, and how well a model finds them.

The folder holds a folder for each set, SET, with SET/SET.csv: a row per image with ``file`` (below the
folder), ``group`` (images of one scene, in any set), ``head`` (or all), ``role`` (degraded, reference, clean,
graded), ``value`` (0 clean; else bad, by level or by difference) and ``kind``:

- paired: degraded images beside the reference of their group; binary, known_bad: no pairs;
- graded: levels of the distortion that ``group`` names, of one scene a set;
- hard_clean: clean images that look defective, each a scene, whose ``group`` says in which way.

audit.csv in it names (``file``, ``head``) what is called clean and is not: it does not count as clean.
The folder is for measuring only.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from quality_model.core import storage
from quality_model.core.decoding import decode, read_bytes
from quality_model.errors import ImageError, UsageError
from quality_model.evaluate.evidence import RealDefects, RealEvidence
from quality_model.evaluate.metrics import Bootstrap
from quality_model.evaluate.whole_images import Scores, image_scorer
from quality_model.networks.model import LoadedModel
from quality_model.params import LimitsParams, values_sha256
from quality_model.records import HEADS, Head

COLUMNS: Final = ("file", "group", "head", "role", "value", "kind")
KINDS: Final = ("paired", "binary", "known_bad", "graded", "hard_clean")
"""What is measured; rows of other kinds are left out."""


def read_sets(folder: Path) -> pd.DataFrame:
    """What is known of the images, a row for each image and head.

    Returns:
        `COLUMNS`, ``set``, ``scene`` (what the bootstrap draws), ``bad``, and ``clean``: neither is true of
        an image that audit.csv names.

    Raises:
        UsageError: There is no set, a table cannot be read, a column is missing, or an image is.
    """
    paths = [path for path in sorted(folder.glob("*/*.csv")) if path.stem == path.parent.name]
    if not paths:
        problem = "holds no set (SET/SET.csv)" if folder.is_dir() else "is not there"
        raise UsageError(f"{folder} {problem}: name a folder of sets (docs/gate.md).")
    known = pd.concat([_read_csv(path, dtype={"group": str}).assign(set=path.stem) for path in paths])
    if lacking := [name for name in COLUMNS if name not in known or known[name].isna().any()]:
        raise UsageError(f"A set in {folder} lacks {', '.join(lacking)} for some image.")
    known = known.loc[known["kind"].isin(KINDS), [*COLUMNS, "set"]].reset_index(drop=True)
    if missing := [name for name in known["file"] if not (folder / name).is_file()]:
        raise UsageError(f"{len(missing)} images of the sets are not in {folder}, such as {missing[0]}.")
    scenes = known["group"].mask(known["kind"] == "hard_clean", known["file"])
    known["scene"] = scenes.mask(known["kind"] == "graded", known["set"])
    known["head"] = [HEADS if head == "all" else (head,) for head in known["head"]]
    known = known.explode("head", ignore_index=True)
    audit = folder / "audit.csv"
    audited = _read_csv(audit) if audit.is_file() else pd.DataFrame(columns=["file", "head"])
    named, asked = (pd.MultiIndex.from_frame(table[["file", "head"]]) for table in (audited, known))
    return known.assign(bad=known["value"] > 0, clean=(known["value"] == 0) & ~asked.isin(named))


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(path, **options)
        return table
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Repair it, or name another folder.") from None


def measure_real_defects(
    folder: Path,
    heads: Collection[Head],
    loaded: LoadedModel,
    bootstrap: Bootstrap,
    *,
    limits: LimitsParams,
    device: torch.device,
) -> RealEvidence:
    """How well a model finds the defects of all sets together, hard clean images among the clean ones.

    Args:
        folder: See the module. What is wrong with it is the evidence's ``problem``: nothing is raised.
        heads: Which are measured.
        loaded: The model, which is moved to ``device``; it scores with its own views.
        bootstrap: Draws whole scenes.
        limits: What an image may be; one that cannot be read is a problem.
        device: To score on.
    """
    try:
        known = read_sets(folder)
        known = known[(known["bad"] | known["clean"]) & known["head"].isin(list(heads))]
        scores = _score(folder, sorted(known["file"].unique()), loaded, limits, device)
    except UsageError as error:
        # Evidence is published: it names no folder of this machine.
        return RealEvidence(problem=error.problem.replace(str(folder), folder.name), heads={})
    found = {}
    for head in heads:
        rows = known[known["head"] == head]
        ours = [float(scores[file][HEADS.index(head)]) for file in rows["file"]]
        auc = bootstrap.auc(ours, rows["bad"].to_numpy(bool), rows["scene"].to_numpy(str))
        counts = {"num_bad": int(rows["bad"].sum()), "num_clean": int(rows["clean"].sum())}
        found[head] = RealDefects(**counts, auc=auc)
    return RealEvidence(problem=None, heads=found)


def _score(
    folder: Path, files: Collection[str], loaded: LoadedModel, limits: LimitsParams, device: torch.device
) -> dict[str, Scores]:
    score = image_scorer(loaded.model.to(device), loaded.image_size_px, device)
    scores = {}
    for file in files:
        try:
            data = read_bytes(folder / file, limits)
            pixels = decode(data, limits, shortest_px=loaded.views.decoded_px)
        except ImageError as error:
            raise UsageError(f"{folder / file} cannot be read: {error}.", "Repair it.") from None
        scores[file] = score(pixels, loaded.views)
    return scores


def contents_sha256(folder: Path) -> str:
    """One hash for the tables of a folder and the names and lengths of its files, if there are any."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [[str(path.relative_to(folder)), path.stat().st_size] for path in files]
    tables = [storage.file_sha256(path) for path in files if path.suffix == ".csv"]
    return values_sha256([facts, tables])
