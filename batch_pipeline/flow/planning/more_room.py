"""More room for answers that were cut off: the same request once more, with a larger `max_tokens`.

The answer stands for the original request: unit and fingerprint stay, only the manifest says that
`max_tokens` was another. Whether a cut-off answer is final is `outcomes`; which units are asked
with more room is `planning`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.jobs.spec import RetrySpec


@dataclass(frozen=True)
class MoreRoom:
    """The larger `max_tokens` (None: none is declared) and what it adds to a request, in bytes."""

    max_tokens: int | None
    growth: int
    max_request_bytes: int

    @classmethod
    def of(cls, retry: RetrySpec, declaration: Declaration) -> MoreRoom:
        larger = retry.truncated_max_tokens
        if larger is not None and larger <= declaration.max_tokens:
            # The snapshot may still be that of a declaration with more room than this one.
            larger = None
        growth = 0 if larger is None else len(str(larger)) - len(str(declaration.max_tokens))
        return cls(larger, growth, declaration.max_request_bytes)

    def fits(self, request_bytes: int) -> bool:
        """Whether a request of this size can be sent with more room: no batch holds a larger one
        than `max_request_bytes`."""
        return self.max_tokens is not None and request_bytes + self.growth <= self.max_request_bytes

    def given_to(self, units: pa.Table) -> pa.Table:
        """Units as planning finds them → with `max_tokens` in place of `cut_off`, and their size
        as it then is."""
        sizes = units.column("request_bytes")
        larger = none = pa.nulls(units.num_rows, pa.int64())
        if self.max_tokens is not None:
            fits = pc.less_equal(pc.add(sizes, self.growth), self.max_request_bytes)
            wanted = pc.and_(units.column("cut_off"), fits)
            larger = pc.if_else(wanted, pa.scalar(self.max_tokens, pa.int64()), none)
            sizes = pc.if_else(wanted, pc.add(sizes, self.growth), sizes)
        position = units.schema.get_field_index("request_bytes")
        resized = units.set_column(position, "request_bytes", sizes)
        return resized.drop_columns(["cut_off"]).append_column("max_tokens", larger)
