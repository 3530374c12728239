"""ICC profiles made from published numbers, and colors encoded in their spaces."""

import struct
from typing import Any

import numpy as np

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d of ICC's parametric curve of type 3 (IEC 61966-2-1)."""

SPACES: dict[str, tuple[Any, list[list[float]]]] = {
    "sRGB": (
        SRGB_CURVE,
        [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.7141]],
    ),
    "Adobe RGB": (
        563 / 256,
        [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]],
    ),
    "Display P3": (
        SRGB_CURVE,
        [[0.51512, 0.2412, -0.00105], [0.29198, 0.69225, 0.04189], [0.1571, 0.06657, 0.78407]],
    ),
    "ProPhoto": (461 / 256, [[0.79767, 0.28804, 0.0], [0.13519, 0.71188, 0.0], [0.03134, 0.00009, 0.82491]]),
}
"""By name, the curve (an exponent or `SRGB_CURVE`) and X, Y, Z of red, green and blue under D50."""


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _curve(curve: Any) -> bytes:
    if isinstance(curve, tuple):
        return struct.pack(">4sIHH", b"para", 0, 3, 0) + _fixed(*curve)
    return struct.pack(">4sIIHxx", b"curv", 0, 1, round(curve * 256))


def _profile(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    common = {
        b"desc": struct.pack(">4sIII2s2sII", b"mluc", 0, 1, 12, b"en", b"US", 2, 28) + b"\0T\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249),
    }
    tags = common | tags
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s", start + len(body), b"", 0x04000000, kind, space, connection, b"", b"acsp", b""
    )
    return header + _fixed(0.9642, 1.0, 0.8249) + bytes(48) + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str, order: str = "rgb") -> bytes:
    """The profile of a space; with another order, its channels mean other colors."""
    curve, colorants = SPACES[name]
    tags = {}
    for channel, stands_for in zip(b"rgb", order, strict=True):
        tags[bytes([channel]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*colorants["rgb".index(stands_for)])
        tags[bytes([channel]) + b"TRC"] = _curve(curve)
    return _profile(b"RGB ", tags)


def grey_profile(exponent: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(exponent)})


def cmyk_profile() -> bytes:
    """A press whose lightness is what the inks leave, and whose colors are dull."""
    grid = np.stack(np.meshgrid(*[np.array([0.0, 1.0])] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    c, m, y, k = grid.T
    lightness = 100 * (1 - k) * (1 - 0.3 * c) * (1 - 0.3 * m) * (1 - 0.1 * y)
    a, b = 30 * (m - c) * (1 - k), 30 * (y - (c + m) / 2) * (1 - k)
    lab = np.stack([lightness / 100 * 255, a + 128, b + 128], axis=1).round().astype(np.uint8)
    identity = bytes(range(256))
    table = struct.pack(">4sIBBBx", b"mft1", 0, 4, 3, 2) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += identity * 4 + lab.tobytes() + identity * 3
    return _profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


def encoded_in(name: str, srgb: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) sRGB colors, as values of a space."""
    values = srgb / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    curve, colorants = SPACES[name]
    own = light @ np.array(SPACES["sRGB"][1]) @ np.linalg.inv(np.array(colorants))
    own = own.clip(0, 1)
    if isinstance(curve, tuple):
        encoded = np.where(own <= 0.0031308, own * 12.92, 1.055 * own ** (1 / 2.4) - 0.055)
    else:
        encoded = own ** (1 / curve)
    return (encoded * 255).round().astype(np.uint8)
