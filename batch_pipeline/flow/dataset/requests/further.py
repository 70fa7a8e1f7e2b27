"""Further turns: what follows a row's own prompt in its request, after an answer to it."""

from __future__ import annotations

from typing import NamedTuple


class Further(NamedTuple):
    """Turns after those of the prompt, as the JSON that follows them in the list of messages
    (`,{"role":"assistant",…},…`), and the API's container in which the answer goes on."""

    turns: bytes = b""
    container: str | None = None
