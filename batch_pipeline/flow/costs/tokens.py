"""The tokens that a night's estimate counts with, and where they are known from: measured answers,
the API's count of a sample, or a rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from batch_pipeline.api.failures import refuses_account
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.costs import experience
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import DocumentChangedError
from batch_pipeline.flow.dataset.reading.row_json import row_of_json
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.priced import asks_for_caching
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.unbought import Unbought
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.pricing.documents import PAGE_TOKENS
from batch_pipeline.pricing.estimate import UNCACHED, Shares, Spread
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.pricing.tokens import RULE_BYTES_PER_TOKEN, TokenUsage
from batch_pipeline.storage.files import Files

# How many requests the API counts the tokens of; they are spread over all lengths.
COUNTED_REQUESTS = 24
# The most bytes that are sent to be counted, where requests have documents.
MOST_COUNTED_BYTES = 64e6


@dataclass(frozen=True)
class Tokens:
    """Tokens for each byte of a prompt (of its size, where it has documents) and of each answer,
    and where they are known from.

    `source` names that in a word; `prompt` and `answer` describe it. `per_text_byte` is there where
    they are known of texts alone: pages and images count as they are then. `output` is None where
    nothing was measured: then each answer counts at `max_tokens`, and has as many web searches as
    its tools allow. `fees` are USD of an answer beside its tokens, where that was measured.
    """

    source: str
    prompt: str
    answer: str
    per_byte: float
    output: Spread | None = None
    shares: Shares = UNCACHED
    fees: Mapping[Mode, Decimal] | None = None
    usage: TokenUsage | None = None
    per_text_byte: float | None = None

    def per_unit(self, part: Unbought) -> float:
        """Tokens for each unit of the prompts' size in a part of the requests."""
        if self.per_text_byte is None or not part.sizes.mean:
            return self.per_byte
        return _blended(self.per_text_byte, part)

    def per_byte_of_texts(self, left: Unbought) -> float:
        """Tokens for each byte of text, which all that the requests share consists of."""
        if not left.visual:
            return self.per_byte
        return self.per_text_byte or 1 / RULE_BYTES_PER_TOKEN


def _blended(per_text_byte: float, part: Unbought) -> float:
    visual = min(part.visual, part.sizes.mean)
    texts = part.sizes.mean - visual
    return (texts * per_text_byte + visual) / part.sizes.mean if visual else per_text_byte


def known_tokens(
    spec: JobSpec,
    left: Unbought,
    found: experience.Experience | None,
    counted: float | None,
) -> Tokens:
    """The tokens from the best source there is; `counted`: tokens a byte, by the API."""
    at_most = f"max_tokens ({spec.max_tokens:,}) for each: none was measured yet"
    if found is not None and found.output is not None:
        per_byte = found.measured.tokens / found.measured.bytes
        usage = found.usage.get("realtime" if spec.mode == "realtime" else "batch", TokenUsage())
        if spec.caching == "off":
            # Without marks of the pipeline's, only the job's own are cached, the same every way.
            own = asks_for_caching(Declaration.of(spec))
            usage = sum(found.usage.values(), TokenUsage()) if own else TokenUsage()
        shares = Shares.of(usage)
        source = found.source
        return Tokens("measured", source, source, per_byte, found.output, shares, found.fees, usage)
    if counted is not None:
        requests = f"{len(left.sample):,} requests of all lengths, counted by the API"
        return Tokens("count_tokens", requests, at_most, counted)
    if found is not None:
        source, prompt = "model", found.source
        per_text_byte = found.measured.tokens / found.measured.bytes
    else:
        source, per_text_byte = "rule", 1 / RULE_BYTES_PER_TOKEN
        prompt = (
            f"a rule, {RULE_BYTES_PER_TOKEN} bytes a token (the API's documentation, for English)"
        )
    if left.visual:
        prompt += f"; {PAGE_TOKENS:,} tokens a PDF page, a token for 28 by 28 pixels (assumptions)"
    if found is None:
        prompt += "; with a key a sample is counted"
    per_byte = _blended(per_text_byte, left)
    return Tokens(source, prompt, at_most, per_byte, per_text_byte=per_text_byte)


def count_tokens(
    pipeline: Pipeline, spec: JobSpec, files: Files, snapshot: NewSnapshot, left: Unbought
) -> tuple[float | None, str | None]:
    """Tokens for each byte of the sample, counted by the API; or None, and why it did not. Of large
    documents fewer are counted; one that has changed is left out.

    An account that the API refuses is paused, as by a message.
    """
    if not left.sample:
        return None, None
    declaration = Declaration.from_json(snapshot.declaration)
    builder = RequestBuilder(declaration)
    opener = DocumentOpener(pipeline.files, spec.name)
    mean = snapshot.request_bytes / max(1, snapshot.units)
    every = math.ceil(len(left.sample) * mean / MOST_COUNTED_BYTES)
    tokens = size = 0
    first = pipeline.answering(spec)[0]
    try:
        for row in snapshots.read_inputs(files, snapshot, left.sample[:: max(1, every)]):
            try:
                params = builder.rebuild(row.text, row.places, None, opener)
            except DocumentChangedError:
                continue
            tokens += first.api.count_tokens(params, declaration.betas)
            size += _prompt_size(builder, row, len(params))
    except ApiFailure as failure:
        if refuses_account(failure):
            with pipeline.ledger.write() as connection:
                accounts.pause_account(connection, first.names.name, str(failure))
        return None, f"the API did not count tokens: {failure}"
    if not size:
        return None, (
            "the API did not count tokens: the documents of the sample cannot be read now (parts "
            "of PDFs and bytes of tables are kept once the input is taken)"
        )
    return tokens / size, None


def _prompt_size(builder: RequestBuilder, row: Input, request_bytes: int) -> int:
    parts = builder.parts_of(row_of_json(row.text))
    if not parts.documents:
        return request_bytes
    return builder.measure(parts.values, parts.documents).prompt_size or request_bytes


def tokens_without_api(
    pipeline: Pipeline, spec: JobSpec, partition: str, price: ModelPrice, owner: str | None = None
) -> Tokens:
    """What is known of a night's tokens without asking the API.

    Without an `owner` it is the one whose results are shown, else the declared one.
    """
    if owner is None:
        with pipeline.ledger.read() as connection:
            shown = nights.shown_night(connection, spec.name, partition)
        owner = pipeline.declared_owner(spec) if shown is None else shown.owner
    declaration = Declaration.of(spec)
    found = experience.find(pipeline, spec, partition, owner, declaration, price)
    return known_tokens(spec, Unbought(0, Spread(0.0, 0.0, 0.0), (), ()), found, None)
