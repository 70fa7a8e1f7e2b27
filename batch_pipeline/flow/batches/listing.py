"""Reads the API's list of batches and, of a batch that has ended, the token in its results.

Belongs here: reading alone. What a listed batch means for a submission is decided in
`reconciliation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import orjson
from sqlalchemy import Connection

from batch_pipeline.api.protocol import Api, ApiFailure, BatchInfo
from batch_pipeline.flow.dataset.requests.declaration import parse_custom_id
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.listed_batches import Mark

PAGE = 1_000
# Some result lines may be damaged; more than this number of whole ones does not tell more.
LINES_TOLD_BY = 20


@dataclass(frozen=True)
class Listing:
    """Batches as the API lists them, newest first.

    `odd`: for each entry without a readable id, the number of batches before it. `whole`: the list
    was read to its end. `fault` is why reading stopped before its end was due; such a listing, and
    one with odd entries, proves of no batch that it does not exist.
    """

    batches: Sequence[BatchInfo]
    odd: Sequence[int] = ()
    whole: bool = True
    fault: ApiFailure | None = None

    def since(self, mark: Mark | None) -> tuple[list[BatchInfo], int]:
        """What was not listed at the mark: batches, and the number of odd entries.

        Not what is in the mark, nor what stands below all of it that is left: the list is newest
        first. Between its ids new batches may stand, where the API's machines do not agree on the
        order. Without a mark nothing is known: all of it is new.
        """
        if mark is None:
            return list(self.batches), len(self.odd)
        before = set(mark.ids)
        deepest = max((n for n, b in enumerate(self.batches) if b.id in before), default=None)
        end = len(self.batches) if mark.whole or deepest is None else deepest
        new = [batch for batch in self.batches[:end] if batch.id not in before]
        odd = sum(position <= end for position in self.odd)
        return new, max(0, odd - mark.odd)


def read_list(api: Api, enough: Callable[[Sequence[BatchInfo]], bool]) -> Listing:
    """The list from its newest batch on, until `enough` of all that was read, or to its end.

    Ends in any case: a page that shows nothing new is the end of a list that does not say whether
    it goes on, and a fault of one that says it does. Raises ApiFailure if the first page cannot be
    had.
    """
    batches: dict[str, BatchInfo] = {}
    odd: list[int] = []
    after: str | None = None
    while True:
        try:
            page = api.list_batches(after, PAGE)
        except ApiFailure as failure:
            if after is None:
                raise
            return Listing([*batches.values()], odd, whole=False, fault=failure)
        before = len(batches)
        odd += [before + position for position in page.odd]
        for batch in page.batches:
            batches.setdefault(batch.id, batch)
        read = [*batches.values()]
        empty = not page.batches and not page.odd
        if page.more is False or (page.more is None and empty):
            return Listing(read, odd)
        if len(batches) == before or page.after is None:
            fault = ApiFailure(200, None, None, f"the list does not go on after {after}")
            return Listing(read, odd, whole=False, fault=fault)
        if enough(read):
            return Listing(read, odd, whole=False)
        after = page.after


def token_of(api: Api, batch_id: str) -> str | None:
    """The token in the results of a batch that has ended; None if they are not this project's.

    Reads the first lines alone. Raises ApiFailure where no custom id can be read, which tells
    nothing.
    """
    with api.stream_results(batch_id) as chunks:
        return token_in(chunks)


def token_in(chunks: Iterable[bytes]) -> str | None:
    """`token_of` of results that are there, as chunks of bytes."""
    told = False
    for name in islice(_custom_ids(chunks), LINES_TOLD_BY):
        told = True
        parsed = parse_custom_id(name)
        if parsed is not None:
            return parsed[0]
    if not told:
        raise ApiFailure(200, None, None, "none of its result lines can be read")
    return None


def _custom_ids(chunks: Iterable[bytes]) -> Iterator[str]:
    """The custom ids of the lines that have a readable one."""
    for line in _lines(chunks):
        try:
            name = orjson.loads(line).get("custom_id")
        except (orjson.JSONDecodeError, AttributeError):
            continue
        if isinstance(name, str):
            yield name


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def accept(connection: Connection, submission_id: int, batch: BatchInfo) -> bool:
    """Record a batch as a submission's; True: the night was cancelled meanwhile.

    The times that the API states are recorded by the ledger's clock: a batch was made between the
    intent and now. An API whose clock is off would otherwise make a batch late for its deadline, or
    too old for its results to be there.
    """
    at = ledger.now(connection)
    intent_at = submissions.get(connection, submission_id).intent_at
    made = at if batch.created_at is None else min(max(batch.created_at, intent_at), at)
    expires = None
    if batch.expires_at is not None and batch.created_at is not None:
        expires = made + (batch.expires_at - batch.created_at)
    return transitions.accept(
        connection, submission_id, batch.id, accepted_at=made, expires_at=expires
    )
