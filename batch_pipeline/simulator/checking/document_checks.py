"""The API's checks of the documents and images in a request.

docs/simulator.md says which error texts are the API's own and which are assumed.
"""

from __future__ import annotations

from typing import Any

from batch_pipeline.simulator.checking.documents import (
    IMAGE_TYPES,
    Picture,
    UnreadableError,
    media_blocks,
    pdf_of,
    picture_of,
)
from batch_pipeline.simulator.models import Model
from batch_pipeline.simulator.wire import ApiError, invalid_request

MOST_IMAGE_BASE64_BYTES = 10_485_760
MOST_SIDE = 8_000
MANY_IMAGES = 20
MOST_SIDE_OF_MANY = 2_000


def check_documents(params: dict[str, Any], model: Model) -> ApiError | None:
    """What is wrong with the documents and images of params whose turns are right, or None."""
    try:
        _check(params, model)
    except ApiError as problem:
        return problem
    return None


def _check(params: dict[str, Any], model: Model) -> None:
    pictures: list[tuple[str, Picture]] = []
    pages = 0
    cited: set[bool] = set()
    for where, role, block in media_blocks(params):
        kind = block["type"]
        if role != "user":
            raise invalid_request(f"{where}: `{kind}` blocks can only be in `user` messages")
        if not isinstance(block.get("source"), dict):
            raise invalid_request(f"{where}.source: Field required")
        if kind == "image":
            pictures.append(_picture(block["source"], f"{where}.source"))
        else:
            pages += _pages(block, where)
            cited.add(_is_cited(block, where))
    if len(cited) > 1:
        raise invalid_request(
            "Citations must be enabled on all documents of a request or on none of them."
        )
    if True in cited and (params.get("output_config") or {}).get("format") is not None:
        raise invalid_request("output_config.format: not supported together with citations")
    _check_counts(pages, len(pictures), model)
    _check_sides(pictures)


def _check_counts(pages: int, pictures: int, model: Model) -> None:
    most = model.media_at_most
    if pages > most:
        raise invalid_request(f"A maximum of {most} PDF pages may be provided.")
    if pages + pictures > most:
        raise invalid_request(
            f"Too much media: {pages} document pages + {pictures} images > {most}"
        )


def _check_sides(pictures: list[tuple[str, Picture]]) -> None:
    many = len(pictures) > MANY_IMAGES
    most = MOST_SIDE_OF_MANY if many else MOST_SIDE
    for where, picture in pictures:
        if max(picture.width, picture.height) > most:
            raise ApiError(
                400,
                "invalid_request_error",
                f"{where}: At least one of the image dimensions exceed max allowed size"
                f"{' for many-image requests' if many else ''}: {most} pixels",
                details={"error_code": "image_dimensions_too_large"},
            )


def _picture(source: dict[str, Any], where: str) -> tuple[str, Picture]:
    data = _base64_data(source, where, tuple(IMAGE_TYPES.values()), "image cannot be empty")
    where += ".base64.data"
    if len(data) > MOST_IMAGE_BASE64_BYTES:
        raise invalid_request(
            f"{where}: image exceeds 10 MB maximum: {len(data)} bytes >"
            f" {MOST_IMAGE_BASE64_BYTES} bytes"
        )
    try:
        picture = picture_of(data)
    except UnreadableError as error:
        raise invalid_request(f"{where}: {error}") from None
    told = source["media_type"]
    if picture.media_type != told:
        raise invalid_request(
            f"{where}: The image was specified using the {told} media type, but the image"
            f" appears to be a {picture.media_type} image"
        )
    return where, picture


def _pages(block: dict[str, Any], where: str) -> int:
    """The pages of a PDF, 0 of any other document."""
    for name in ("title", "context"):
        if not isinstance(block.get(name), str | None):
            raise invalid_request(f"{where}.{name}: Input should be a valid string")
    source = block["source"]
    where += ".source"
    kind = source.get("type")
    if kind == "base64":
        data = _base64_data(source, where, ("application/pdf",), "PDF cannot be empty")
        try:
            return pdf_of(data).pages
        except UnreadableError as error:
            raise invalid_request(f"{where}.base64.data: {error}") from None
    if kind == "text":
        if source.get("media_type") != "text/plain":
            raise invalid_request(f"{where}.text.media_type: Input should be 'text/plain'")
        _check_text(source.get("data"), f"{where}.text.data")
    elif kind == "content":
        _check_inner(source.get("content"), f"{where}.content")
    else:
        raise _unknown_source(kind, where)
    return 0


def _check_inner(content: Any, where: str) -> None:
    """Check a document's own blocks; their images are checked as `media_blocks` names them."""
    if not isinstance(content, list):
        _check_text(content, where)
        return
    if not content:
        raise invalid_request(f"{where}: content must be non-empty")
    for number, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            _check_text(block.get("text"), f"{where}.{number}.text")
        elif kind != "image":
            raise invalid_request(f"{where}.{number}.type: Input should be 'text' or 'image'")


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise invalid_request(f"{where}: Input should be a valid string")
    if not text.strip():
        raise invalid_request(f"{where}: text content must be non-empty")


def _base64_data(source: dict[str, Any], where: str, types: tuple[str, ...], empty: str) -> str:
    if source.get("type") != "base64":
        raise _unknown_source(source.get("type"), where)
    if source.get("media_type") not in types:
        *others, last = (f"'{name}'" for name in types)
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise invalid_request(f"{where}.base64.media_type: Input should be {allowed}")
    data = source.get("data")
    if not isinstance(data, str):
        raise invalid_request(f"{where}.base64.data: Input should be a valid string")
    if not data:
        raise invalid_request(f"{where}.base64.data: {empty}")
    return data


def _unknown_source(kind: Any, where: str) -> ApiError:
    if kind in ("url", "file"):
        return invalid_request(f"{where}.type: the simulator takes no source of type '{kind}'")
    return invalid_request(f"{where}.type: Input should be a known type of source, not {kind!r}")


def _is_cited(block: dict[str, Any], where: str) -> bool:
    citations = block.get("citations")
    if citations is None:
        return False
    if not isinstance(citations, dict) or not isinstance(citations.get("enabled", False), bool):
        raise invalid_request(f"{where}.citations: Input should be a valid dictionary")
    return bool(citations.get("enabled", False))
