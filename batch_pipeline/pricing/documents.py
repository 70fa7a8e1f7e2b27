"""Tokens of PDF pages and images, and the API's limits for them.

Belongs here: what follows from pages, pixels, bytes and the model alone. The sizes are documented,
PDF pages were measured by others; docs/money.md says which of them are assumptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from batch_pipeline.pricing.prices import context_window, library_id

# A scanned page was billed at 1,592 to 1,600 tokens by models of both tiers of resolution; what a
# page says as text is billed beside it.
PAGE_TOKENS = 1_600
# An image costs a token for each square of these pixels, begun ones included.
_PATCH = 28

MAX_REQUEST_BYTES = 32_000_000
# Of base64. The API took half of it until 2026; what it still refuses of those between comes back.
MAX_IMAGE_BASE64 = 10_485_760
# Pixels of an image's longer side, alone and in a request of more than `MANY` images.
MOST_SIDE = 8_000
MOST_SIDE_OF_MANY = 2_000
MANY = 20


class _Tier(NamedTuple):
    """The largest image that a model looks at; a larger one is scaled to fit both limits."""

    long_side: int
    tokens: int


_STANDARD = _Tier(1_568, 1_568)
_HIGH = _Tier(2_576, 4_784)
# Of a long and narrow image the larger size may have two rows of squares for one: 184 for 56.
_MOST_GROWTH = 3.3
# Models of standard resolution, by the ids of the price library; those that it does not know count
# as of high resolution, since a bound has to hold.
_OF_STANDARD = re.compile(r"claude-(v1|2|3-.*|(haiku|opus|sonnet)-4-[0-6])")
# A context of fewer tokens takes fewer pages and images.
_LARGE_CONTEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class Visual:
    """What a model looks at of one document: the pages that are sent of a PDF, or the pixels of an
    image; `size` is that of the document in bytes, before base64."""

    pages: int = 0
    width: int = 0
    height: int = 0
    size: int = 0

    @property
    def is_image(self) -> bool:
        return self.width > 0

    def tokens(self, model_id: str) -> int:
        """What it costs as a picture; the text of PDF pages is billed beside it."""
        if self.is_image:
            return image_tokens(self.width, self.height, model_id)
        return self.pages * PAGE_TOKENS


def visual_tokens(visuals: Iterable[Visual], model_id: str) -> int:
    """The tokens of all pages and images of a request."""
    return sum(visual.tokens(model_id) for visual in visuals)


def image_tokens(width: int, height: int, model_id: str) -> int:
    """The tokens of an image of these pixels, scaled down where the model takes no larger one."""
    tier = _tier(model_id)
    longer, shorter = max(width, height), min(width, height)
    largest = min(longer, tier.long_side)
    if _patches(largest, longer, shorter) <= tier.tokens:
        return _patches(largest, longer, shorter)
    # The largest size of the same shape that the model takes.
    fits, too_large = 1, largest
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if _patches(middle, longer, shorter) <= tier.tokens:
            fits = middle
        else:
            too_large = middle
    return _patches(fits, longer, shorter)


def _patches(side: int, longer: int, shorter: int) -> int:
    """The squares of an image whose longer side is scaled to `side`."""
    other = max(1, round(side * shorter / longer))
    return -(-side // _PATCH) * -(-other // _PATCH)


def tier_factor(from_model: str, to_model: str) -> float:
    """By how much, at most, the visual tokens of one model's request grow where another one is
    asked the same."""
    return _MOST_GROWTH if (_tier(from_model), _tier(to_model)) == (_STANDARD, _HIGH) else 1.0


@lru_cache(maxsize=256)
def _tier(model_id: str) -> _Tier:
    known = library_id(model_id) or model_id
    return _STANDARD if _OF_STANDARD.fullmatch(known) else _HIGH


@lru_cache(maxsize=256)
def visuals_at_most(model_id: str) -> int:
    """How many PDF pages and images together a request may have."""
    context = context_window(model_id)
    return 100 if context is not None and context < _LARGE_CONTEXT else 600


def base64_bytes(size: int) -> int:
    """The length of `size` bytes in base64."""
    return -(-size // 3) * 4


def limit_passed(
    visuals: Sequence[Visual], request_bytes: int, model_id: str
) -> tuple[str, str] | None:
    """Why the API would refuse a request with these documents for its size, as reason (of few
    values) and detail; None: it takes it."""
    pages = sum(visual.pages for visual in visuals)
    images = [visual for visual in visuals if visual.is_image]
    most = visuals_at_most(model_id)
    if pages + len(images) > most:
        return _too_many(pages, len(images), f"{most} at most for {model_id}")
    for image in images:
        sides = f"{image.width:,} × {image.height:,}"  # noqa: RUF001
        longer = max(image.width, image.height)
        if longer > MOST_SIDE:
            return f"image sides over {MOST_SIDE:,} pixels", sides
        if len(images) > MANY and longer > MOST_SIDE_OF_MANY:
            others = f"{sides}: beside {len(images) - 1} others the API takes {MOST_SIDE_OF_MANY:,}"
            return f"image sides over {MOST_SIDE_OF_MANY:,} pixels", others
        if (encoded := base64_bytes(image.size)) > MAX_IMAGE_BASE64:
            detail = f"{_mb(encoded)} in base64, an image may have {_mb(MAX_IMAGE_BASE64)}"
            return "larger than an image may be", detail
    if request_bytes > MAX_REQUEST_BYTES:
        raw = sum(visual.size for visual in visuals)
        in_base64 = sum(base64_bytes(visual.size) for visual in visuals)
        detail = f"a request of {_mb(request_bytes)}, {_mb(MAX_REQUEST_BYTES)} at most"
        if in_base64:
            detail += f"; documents of {_mb(raw)} are {_mb(in_base64)} of it in base64"
        return "larger than a request may be", detail
    return None


def _too_many(pages: int, images: int, most: str) -> tuple[str, str]:
    parts = input_pdf = ""
    if pages:
        input_pdf = "; input.pdf: {pages: …} sends a part, {as: text} the text"
        parts = f"{pages:,} PDF page{'s' if pages != 1 else ''}"
    if images:
        parts += f"{' and ' if parts else ''}{images:,} image{'s' if images != 1 else ''}"
    what = "PDF pages" if not images else "pages and images" if pages else "images"
    return f"more {what} than a request takes", f"{parts}, {most}{input_pdf}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
