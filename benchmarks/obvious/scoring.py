"""The scores of a folder's images, one after the other, into one Parquet file."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.obvious.network import Network
from quality_model.records import HEADS


def score(network: Network, images: Path, output: Path, *, side_px: int) -> int:
    """Score the JPEG files of a folder into scores.parquet; returns how many there are."""
    network.eval()
    rows = []
    for path in sorted(images.glob("*.jpg")):
        image = Image.open(path).convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255.0
        with torch.inference_mode():
            scores = network(x[None])[0]
        rows.append({"key": path.name, **dict(zip(HEADS, scores.tolist(), strict=True))})
    output.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(output / "scores.parquet")
    return len(rows)
