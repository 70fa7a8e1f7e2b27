"""Tokens of pages and images, and the limits of a request, against the API's documentation."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_pipeline.pricing import documents
from batch_pipeline.pricing.documents import Visual, image_tokens, limit_passed

OLD, NEW = "claude-haiku-4-5-20251001", "claude-opus-4-8"


@pytest.mark.parametrize(
    ("width", "height", "model_id", "tokens"),
    [
        (28, 28, OLD, 1),
        (29, 28, OLD, 2),
        (1, 1, OLD, 1),
        (1_092, 1_092, OLD, 39 * 39),
        (1_092, 1_092, NEW, 39 * 39),
        (1_568, 28, OLD, 56),
        (3_136, 28, OLD, 56),  # scaled by its longer side
        (3_000, 2_000, OLD, 48 * 32),  # by its tokens: 1,344 by 896
        (2_000, 3_000, OLD, 48 * 32),
        (3_000, 2_000, NEW, 84 * 56),  # 2,352 by 1,568
        (8_000, 8_000, OLD, 39 * 39),
        (8_000, 8_000, NEW, 69 * 69),
        (8_000, 1, NEW, 92),
    ],
)
def test_image_costs_a_token_for_each_square(
    width: int, height: int, model_id: str, tokens: int
) -> None:
    assert image_tokens(width, height, model_id) == tokens


@given(st.integers(1, 8_000), st.integers(1, 8_000))
@example(7_992, 98)
@example(1_905, 1_905)
def test_no_image_costs_more_than_its_tier_takes(width: int, height: int) -> None:
    old, new = (image_tokens(width, height, model) for model in (OLD, NEW))
    assert 1 <= old <= 1_568
    assert old <= new <= 4_784
    assert new <= old * documents.tier_factor(OLD, NEW)


@pytest.mark.parametrize(
    ("model_id", "most", "high"),
    [
        ("claude-haiku-4-5", 100, False),
        ("claude-3-5-haiku-latest", 100, False),
        ("claude-opus-4-20250514", 100, False),
        ("claude-sonnet-4-6", 600, False),
        ("claude-opus-4-7", 600, True),
        ("claude-haiku-5-5", 600, True),
        ("some-model-of-tomorrow", 600, True),
    ],
)
def test_limits_of_models(model_id: str, most: int, high: bool) -> None:
    assert documents.visuals_at_most(model_id) == most
    assert (image_tokens(8_000, 8_000, model_id) > 1_568) is high


def test_blank_pages_cost_as_pages_and_not_as_bytes() -> None:
    assert documents.visual_tokens([Visual(pages=4_000, size=502_245)], NEW) == 6_400_000


def test_factor_between_tiers() -> None:
    assert documents.tier_factor(OLD, NEW) == 3.3
    assert documents.tier_factor(NEW, OLD) == documents.tier_factor(OLD, OLD) == 1


IMAGE = Visual(width=100, height=100, size=1_000)
LARGE = Visual(width=2_500, height=100, size=1_000)


@pytest.mark.parametrize(
    ("visuals", "size", "reason", "detail"),
    [
        ([Visual(pages=100)], 1_000, None, ""),
        ([Visual(pages=101)], 1_000, "more PDF pages than a request takes", "101 PDF pages, 100"),
        ([Visual(pages=99), IMAGE], 1_000, None, ""),
        (
            [Visual(pages=60), *[IMAGE] * 41],
            1_000,
            "more pages and images than a request takes",
            "60 PDF pages and 41 images, 100 at most for claude-haiku-4-5-20251001; input.pdf",
        ),
        ([IMAGE] * 101, 1_000, "more images than a request takes", "101 images, 100 at most"),
        ([Visual(width=8_000, height=8_000)], 1_000, None, ""),
        (
            [Visual(width=30_000, height=30_000)],
            1_000,
            "image sides over 8,000 pixels",
            "30,000 × 30,000",  # noqa: RUF001
        ),
        ([LARGE] * 20, 1_000, None, ""),
        ([*[IMAGE] * 20, LARGE], 1_000, "image sides over 2,000 pixels", "beside 20 others"),
        ([Visual(width=9, height=9, size=7_864_320)], 10_500_000, None, ""),
        (
            [Visual(width=9, height=9, size=7_864_321)],
            10_500_000,
            "larger than an image may be",
            "10.5 MB in base64",
        ),
        ([Visual(pages=1, size=24_000_000)], 32_000_000, None, ""),
        (
            [Visual(pages=1, size=31_200_000)],
            41_600_200,
            "larger than a request may be",
            "41.6 MB, 32.0 MB at most; documents of 31.2 MB are 41.6 MB of it",
        ),
        ([], 32_000_001, "larger than a request may be", "32.0 MB at most"),
    ],
)
def test_what_the_api_would_refuse(
    visuals: list[Visual], size: int, reason: str | None, detail: str
) -> None:
    passed = limit_passed(visuals, size, OLD)
    assert (passed and passed[0]) == reason
    assert passed is None or detail in passed[1]
