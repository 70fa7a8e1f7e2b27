"""Variants: ways of asking a request otherwise than the job declares it.

An answer to a variant stands for the original request: unit and fingerprint are those of the
request as declared. Which variant a request was asked as stands in its shard's manifest, with the
definition of the variant, so that a body can be reproduced to the byte whatever the job says by
then. Price and bound follow from the variant. Whether a cut-off answer is final is `outcomes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.pricing.tokens import Lifetime

# In the metadata of a manifest file: the definitions of the variants that it names.
_METADATA_KEY = b"variants"


@dataclass(frozen=True)
class Variant:
    """What a request is asked with in place of what is declared."""

    name: str
    max_tokens: int

    def declared_as(self, declaration: Declaration) -> Declaration:
        """The declaration that makes this variant of its requests."""
        return replace(declaration, max_tokens=self.max_tokens)


def with_definitions(manifest: pa.Table, variants: Sequence[Variant]) -> pa.Table:
    """A manifest that carries these definitions in its metadata."""
    definitions = orjson.dumps([asdict(variant) for variant in variants])
    return manifest.replace_schema_metadata({_METADATA_KEY: definitions})


def declarations_of(manifest: pa.Table, declaration: Declaration) -> dict[str | None, Declaration]:
    """What the requests of a manifest are made with, by the name in its column `variant`.

    Under None the declaration itself. Of the manifest the metadata alone are looked at.
    """
    definitions = orjson.loads((manifest.schema.metadata or {}).get(_METADATA_KEY, b"[]"))
    variants = [Variant(**definition) for definition in definitions]
    return {None: declaration} | {each.name: each.declared_as(declaration) for each in variants}


def builders_of(
    manifest: pa.Table, declaration: Declaration, caching: Lifetime | None = None
) -> dict[str | None, RequestBuilder]:
    """What makes the requests of a manifest, by the name in its column `variant`; with `caching`
    they carry cache marks."""
    declared = declarations_of(manifest, declaration)
    return {name: RequestBuilder(variant, caching) for name, variant in declared.items()}


@dataclass(frozen=True)
class MoreRoom:
    """The variant with a larger `max_tokens`, for answers that were cut off there.

    `variant` is None where the job declares none; `growth` is what it adds to a request in bytes.
    """

    variant: Variant | None
    growth: int
    max_request_bytes: int

    @classmethod
    def of(cls, retry: RetrySpec, declaration: Declaration) -> MoreRoom:
        larger = retry.truncated_max_tokens
        if larger is None or larger <= declaration.max_tokens:
            # The snapshot may still be that of a declaration with more room than this one.
            return cls(None, 0, declaration.max_request_bytes)
        growth = len(str(larger)) - len(str(declaration.max_tokens))
        return cls(Variant("more_room", larger), growth, declaration.max_request_bytes)

    def fits(self, request_bytes: int) -> bool:
        """Whether a request of this size, in bytes, can be sent with more room: none may have more
        than `max_request_bytes`."""
        return self.variant is not None and request_bytes + self.growth <= self.max_request_bytes

    def given_to(self, units: pa.Table) -> pa.Table:
        """Open units with the column `variant` in place of `cut_off`, and the size that each
        request then has."""
        sizes = units.column("request_bytes")
        names = none = pa.nulls(units.num_rows, pa.string())
        if self.variant is not None:
            fits = pc.less_equal(pc.add(sizes, self.growth), self.max_request_bytes)
            wanted = pc.and_(units.column("cut_off"), fits)
            names = pc.if_else(wanted, pa.scalar(self.variant.name), none)
            sizes = pc.if_else(wanted, pc.add(sizes, self.growth), sizes)
        position = units.schema.get_field_index("request_bytes")
        resized = units.set_column(position, "request_bytes", sizes)
        return resized.drop_columns(["cut_off"]).append_column("variant", names)
