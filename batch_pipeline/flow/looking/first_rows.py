"""The first rows of an input that was not taken: read, routed, filtered and made into requests.

As when the night's input is taken, but only as far as a person looks: nothing is written, and
duplicates, which are known once all rows are read, are not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from batch_pipeline.flow.dataset.choosing import filters
from batch_pipeline.flow.dataset.choosing.routes import Router
from batch_pipeline.flow.dataset.documents.resolve import DocumentInput, Resolver
from batch_pipeline.flow.dataset.prepare import prepare_routed, wanted_by, without
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.reading.rows import Row, read_section
from batch_pipeline.flow.dataset.reading.splits import Section
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.looking.snapshot_rows import SnapshotItem


def first(
    declaration: Declaration,
    sources: Sources,
    count: int,
    item_id: str | None = None,
    documents: DocumentInput | None = None,
) -> list[SnapshotItem]:
    """The first `count` rows of an input, or the one with an id: then all before it are read. Of
    the documents that rows name those of the wanted rows alone are looked at, as `documents` says.

    Raises InputDataError for what would stop the night before them.
    """
    rows = _rows(declaration, sources)
    if item_id is not None:
        rows = (row for row in rows if row.id == item_id)
        count = 1
    builders = {route: RequestBuilder(asked) for route, asked in declaration.by_route().items()}
    chosen: Iterable[Row] = islice(rows, count)
    if documents is not None:
        chosen = Resolver(documents, builders[None]).resolved(chosen)
    asked = filters.of(declaration.filters)
    found = []
    for ordinal, (row, route) in enumerate(Router(declaration).routed(chosen)):
        prepared = prepare_routed(row, route, builders)
        if prepared.status is None and asked is not None:
            [verdict] = asked.verdicts([row], builders[None].prompt.columns)
            prepared = prepared if verdict is None else without(prepared, verdict)
        known = prepared._asdict()
        del known["stored"]
        found.append(SnapshotItem(ordinal=ordinal, **known))
    return found


def _rows(declaration: Declaration, sources: Sources) -> Iterator[Row]:
    wanted = wanted_by(declaration, ())
    for file in sources.files:
        # What the whole file lacks cannot be told from its first rows.
        yield from read_section(Section(file), wanted, wanted.seen())
