"""A few of a run's images in a small size, for pages that can't reach the output folder."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from flows.batch.row_report import RowReport

SIDE = 128  # pixels
MOST_PICTURES = 48
MOST_BYTES = 400_000  # of all pictures' addresses together
_LOOKED_AT = 2 * MOST_PICTURES


@dataclass(frozen=True, slots=True)
class SmallPicture:
    """An image that is its own address, `data:image/webp;base64,...`."""

    sku: str
    address: str


def small_pictures(rows: Iterable[RowReport], root: Path) -> Iterator[SmallPicture]:
    """Small copies of the first images of these rows, as many as there is room for. `root`: the output folder.

    A file that can't be read is left out: the contact sheet shows it all the same.
    """
    left, shown, looked_at = MOST_BYTES, 0, 0
    for row in rows:
        if not row.status.has_image or not (row.thumbnail or row.path):
            continue
        looked_at += 1
        address = _address(root / (row.thumbnail or row.path))
        if address and len(address) <= left:
            left -= len(address)
            shown += 1
            yield SmallPicture(row.sku, address)
        if shown == MOST_PICTURES or looked_at == _LOOKED_AT:
            return


def _address(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.thumbnail((SIDE, SIDE))
            small = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    kept = BytesIO()
    small.save(kept, "webp", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(kept.getvalue()).decode()}"
