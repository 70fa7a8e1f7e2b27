"""A body is taken apart one request at a time, and comes to the same as read as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.simulator.batches import spool
from batch_pipeline.simulator.batches.spool import Spool, request_lines
from batch_pipeline.simulator.wire import ApiError

TRICKY = ',{"custom_id":"x"},{"custom_id":"y","params":{}}]}'


def entry(number: int, **params: Any) -> dict[str, Any]:
    return {"custom_id": f"id-{number}", "params": {"max_tokens": 1, **params}}


PLAIN = [entry(0, text=TRICKY), entry(1, text="ä\u2028\n"), entry(2)]
NESTED = [entry(0, tool=[1, {"custom_id": "inner"}, {"custom_id": "other"}]), entry(1)]


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        (orjson.dumps({"requests": PLAIN}), True),
        (orjson.dumps({"requests": NESTED}), False),
        (orjson.dumps({"requests": PLAIN}, option=orjson.OPT_INDENT_2), False),
        (orjson.dumps({"requests": [dict(reversed(entry(0).items()))]}), False),
        # Longer than what is read at once.
        (orjson.dumps({"requests": [entry(n, text="x" * 700_000) for n in range(4)]}), True),
    ],
)
def test_what_was_sent_is_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, plain: bool
) -> None:
    if plain:
        monkeypatch.setattr(spool, "_parse", None)
    store = Spool(tmp_path / "spool")
    incoming = tmp_path / "spool" / "x.incoming"
    incoming.write_bytes(body)
    digests = store.unpack(incoming, "batch")
    kept = [
        {"custom_id": custom_id, "params": orjson.loads(params)}
        for custom_id, _, params in request_lines(store.requests("batch"))
    ]
    assert kept == orjson.loads(body)["requests"]
    assert digests == [digest for _, digest, _ in request_lines(store.requests("batch"))]
    assert not incoming.exists()


@pytest.mark.parametrize(
    "body",
    [
        b'{"requests":[{"custom_id":"a","params":{}},{"custom_id":"a","params":{}}]}',
        b'{"requests":[{"custom_id":"a","params":{}}],"x":[]}',
        b'{"requests":[{"custom_id":"a","params":{}}',
        b'{"requests":[{"custom_id":"a","params":{"stream":true}}]}',
    ],
)
def test_what_is_wrong_with_a_body_is_said_of_the_whole(tmp_path: Path, body: bytes) -> None:
    store = Spool(tmp_path / "spool")
    incoming = tmp_path / "spool" / "x.incoming"
    incoming.write_bytes(body)
    with pytest.raises(ApiError) as refused:
        store.unpack(incoming, "batch")
    assert refused.value.status == 400
