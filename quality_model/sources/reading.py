"""From encoded bytes to a row of the pictures table."""

import hashlib
from collections.abc import Callable

from quality_model import images
from quality_model.errors import PictureError
from quality_model.params import LimitsParams
from quality_model.records import CleanPicture


def read_picture(
    picture_id: str, group: str, origin: str, read: Callable[[], bytes], limits: LimitsParams
) -> CleanPicture:
    """Fetch a picture's bytes and decode them once, to know that they decode and how large they are.

    Args:
        picture_id: Unique in its source.
        group: What the picture was cut from.
        origin: Where the bytes come from.
        read: Gives the encoded bytes; may raise PictureError.
        limits: What a picture may be.

    Returns:
        The row. A picture that cannot be read has a reason, its bytes where there are any
        (none where they are too many to keep), and neither width nor height. Where there
        are no bytes, ``sha256`` is empty.
    """
    data = b""
    width = height = reason = None
    try:
        data = read()
        images.check_bytes(data, limits)
        height, width = images.decode(data, limits).shape[:2]
    except PictureError as error:
        reason = error.reason
        if error.reason == "too_many_bytes":
            data = b""
    sha256 = hashlib.sha256(data).hexdigest() if data else ""
    return CleanPicture(picture_id, group, origin, sha256, data, width, height, reason)
