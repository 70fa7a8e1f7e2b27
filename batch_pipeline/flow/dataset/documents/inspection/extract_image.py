"""What is known of an image: its kind and its sides, from its header; and a small copy of it.

Runs in the process of `inspect_process`, as images are strangers' files too. Nothing is decoded but
for the small copy.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from batch_pipeline.flow.dataset.documents.inspection import small_pictures
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
# Cameras put several pictures into one JPEG, which Pillow has a name of its own for.
_SAME_AS = {"MPO": "JPEG"}
# What Pillow raises for the header of an image that is none.
_ERRORS = (
    OSError, ValueError, SyntaxError, LookupError, ArithmeticError, EOFError, TypeError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip


def facts_of(want: Want) -> Facts:
    """Raises Refused for an image that the API refuses, whatever stands beside it."""
    try:
        # Sides are judged by the limits of the API; Pillow's own limit is of pixels.
        Image.MAX_IMAGE_PIXELS = None
        with Image.open(want.path, formats=tuple(_TYPES)) as image:
            kind = _SAME_AS.get(str(image.format), str(image.format))
            width, height = image.size
    except _ERRORS as error:
        raise Refused("damaged image", _words(error, want)) from None
    if not width or not height:
        raise Refused("damaged image", f"{width} by {height} pixels")
    return Facts(_TYPES[kind], width=width, height=height)


def thumbnail(path: str) -> bytes:
    """The image as a small JPEG."""
    with Image.open(path, formats=tuple(_TYPES)) as image:
        image.draft("RGB", (small_pictures.WIDTH, small_pictures.WIDTH))
        small = image.convert("RGB")
    small.thumbnail((small_pictures.WIDTH, small_pictures.HEIGHT))
    return small_pictures.as_jpeg(small)


def _words(error: Exception, want: Want) -> str:
    """Pillow's words, which would name the file by the path of a copy."""
    words = str(error).replace(repr(want.path), "it").replace(want.path, "it")
    return " ".join(words.split())[:200] or type(error).__name__
