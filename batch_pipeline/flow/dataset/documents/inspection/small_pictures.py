"""Small pictures of pages and images, for people to look at.

Apart from `extract_pdf`, so that a process that sees images alone need not load PDFium.
"""

from __future__ import annotations

import io

from PIL.Image import Image

WIDTH, HEIGHT = 420, 630
_QUALITY = 60


def as_jpeg(picture: Image) -> bytes:
    """A picture of a small size as a JPEG."""
    made = io.BytesIO()
    picture.save(made, "JPEG", quality=_QUALITY, optimize=True)
    return made.getvalue()
