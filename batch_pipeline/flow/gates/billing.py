"""What an answer was billed where that is more than its tokens at the declared model's price.

`usage` also tells of web searches, of the region of inference, and of iterations by other models;
`model` says which model answered. What is plain is priced by the judge itself; for all else both
engines ask here, and every amount and every thing without a price is noted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.answers.messages import Tokens, tokens_of
from batch_pipeline.flow.answers.outcomes import shape_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.priced import most_searches
from batch_pipeline.ledger.home.identity import Sent
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.ledger.sums import FeeKind
from batch_pipeline.pricing.prices import Mode, ModelPrice, find_price, library_id
from batch_pipeline.pricing.tokens import TokenUsage

# Values of `usage.inference_geo` that change no price; the last is that of older models.
_ANYWHERE = ("global", "not_available")
# Counts in `usage.server_tool_use` that cost nothing but tokens.
_FREE_TOOLS = ("web_fetch_requests", "tool_search_requests")
_WEB_SEARCHES = "web_search_requests"
# Iterations whose tokens are in the top-level usage, unless another model made them.
_COUNTED_ABOVE = ("message", "fallback_message")
# More than one answer can have: such counts are no counts.
MOST_SEARCHES = 10_000
MOST_ITERATIONS = 100
# Names come from outside: this is how much of each, and how many, are kept.
_NAME_CHARACTERS = 100
_MOST_NAMES = 20
_OTHERS = "others"
_DATE = re.compile(r"[-@]\d{8}$")
# Picodollars by the way that was taken, and by the other one.
_Both = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bill:
    """What an answer cost in whole picodollars, and what it would have cost the other way.

    The tokens are in it unless the API does not say them. `price` is that of the model that
    answered.
    """

    picodollars: int
    other_way: int
    price: ModelPrice


class Biller:
    """Prices the answers of one submission, and notes what they were billed beside tokens.

    `fees` is by kind and name: how many, and picodollars unless there is no price. Several billers
    of one submission, each for what is asked of one model, may note theirs together.
    """

    def __init__(
        self,
        declaration: Declaration,
        submission: Submission | Sent,
        price: ModelPrice,
        fees: dict[str, dict[str, dict[str, int]]] | None = None,
    ) -> None:
        self._declared, self._price = declaration, price
        self._searches = searches_bound(declaration, price)
        self._mode: Mode = submission.engine
        self._at = datetime.fromtimestamp(submission.intent_at, UTC)
        self._stated = submission.stated_prices
        self._geo = "us" if declaration.params.get("inference_geo") == "us" else None
        # Models and regions whose answers cost what was declared.
        self._models = {declaration.model_id}
        self._geos = {None, "us"} if self._geo else {None, *_ANYWHERE}
        self._found: dict[tuple[str, str | None], ModelPrice | None] = {}
        self.fees: dict[str, dict[str, dict[str, int]]] = {} if fees is None else fees

    def is_plain(self, message: Mapping[str, Any]) -> bool:
        """Whether an answer cost its tokens at the declared price. Called for each answer."""
        try:
            usage = message["usage"]
            return (
                message["model"] in self._models
                and usage.get("inference_geo") in self._geos
                and not usage.get("server_tool_use")
                and not usage.get("iterations")
            )
        except (KeyError, TypeError, AttributeError):
            return False

    def cost(self, message: Mapping[str, Any]) -> Decimal:
        """USD for an answer; a `usage` that cannot be read has no tokens."""
        tokens = tokens_of(message)
        bill = None if self.is_plain(message) else self.bill(message, tokens)
        if bill is not None:
            return Decimal(bill.picodollars).scaleb(-12)
        return self._price.cost(TokenUsage(*(tokens or ())), mode=self._mode)

    def bill(self, message: Mapping[str, Any], tokens: Tokens | None) -> Bill | None:
        """The bill of an answer that is not plain; None where it costs what a plain one does."""
        usage = message.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        model, geo = self._model(message.get("model")), self._region(usage.get("inference_geo"))
        price = self._of(model, geo)
        parts = [
            *self._of_tokens(model, geo, price, TokenUsage(*(tokens or ()))),
            *self._of_searches(usage.get("server_tool_use"), price),
            *self._of_iterations(usage.get("iterations"), model, geo),
        ]
        if price == self._price and not parts:
            return None
        plain = self._more(TokenUsage(*(tokens or ())), self._price)
        billed, other_way = map(sum, zip(plain, *parts, strict=True))
        return Bill(billed, other_way, price)

    def upper_bound(self, prompt_size: int, max_tokens: int, bill: Bill | None = None) -> Decimal:
        """The most in USD that a request can have cost, beside what is known of its bill."""
        price, searches = (self._price, self._searches) if bill is None else (bill.price, 0)
        return price.upper_bound(prompt_size, max_tokens, self._mode) + searches

    @property
    def _ways(self) -> tuple[Mode, Mode]:
        """The way that was taken, and the other one."""
        return ("batch", "realtime") if self._mode == "batch" else ("realtime", "batch")

    def _of_tokens(
        self, model: str, geo: str | None, price: ModelPrice, tokens: TokenUsage
    ) -> Iterator[_Both]:
        """What the tokens cost more than at the declared price, by either way."""
        there = self._of(model, self._geo)
        if there != self._price:
            yield self._note(FeeKind.OTHER_MODEL, model, self._more(tokens, there, self._price))
        if price != there:
            yield self._note(FeeKind.REGION, str(geo), self._more(tokens, price, there))

    def _more(self, tokens: TokenUsage, price: ModelPrice, than: ModelPrice | None = None) -> _Both:
        here, there = (
            _whole(price.cost(tokens, mode=way) - (than.cost(tokens, mode=way) if than else 0))
            for way in self._ways
        )
        return here, there

    def _of_searches(self, tools: object, price: ModelPrice) -> Iterator[_Both]:
        if tools and not isinstance(tools, dict):
            self._note_unpriced(f"server_tool_use is {shape_of(tools)}")
        for name, count in tools.items() if isinstance(tools, dict) else ():
            if not count or name in _FREE_TOOLS:
                continue
            known = type(count) is int and 0 < count <= MOST_SEARCHES
            if name != _WEB_SEARCHES or price.web_search is None or not known:
                self._note_unpriced(f"server_tool_use.{name}")
                continue
            usd = _whole(price.web_search * count)
            yield self._note(FeeKind.WEB_SEARCHES, "", (usd, usd), count)

    def _of_iterations(self, iterations: object, model: str, geo: str | None) -> Iterator[_Both]:
        """The iterations that the top-level usage does not have, each at its own model's price."""
        if iterations and not isinstance(iterations, list):
            self._note_unpriced(f"iterations is {shape_of(iterations)}")
            return
        for number, iteration in enumerate(iterations if isinstance(iterations, list) else ()):
            named = iteration.get("model") if isinstance(iteration, dict) else None
            if named is None:
                named = model
            tokens = tokens_of({"usage": iteration})
            if tokens is None or type(named) is not str or number >= MOST_ITERATIONS:
                self._note_unpriced("iterations that cannot be read")
                continue
            if iteration.get("type") in _COUNTED_ABOVE and is_same(named, model):
                continue
            price = self._look_up(named, geo)
            if price is None:
                self._note_unpriced(f"iterations of {named}")
                continue
            yield self._note(FeeKind.ITERATIONS, named, self._more(TokenUsage(*tokens), price))

    def _model(self, named: object) -> str:
        """The model that answered, as far as it has a price; else the declared one."""
        declared = self._declared.model_id
        if type(named) is not str:
            self._note_unpriced(f"an answer whose model is {shape_of(named)}")
            return declared
        # Prices that the job states for a name of its own are those of all that answers to it.
        own = self._stated is not None and library_id(declared) is None
        if own or is_same(named, declared):
            self._models.add(named)
            return declared
        if self._look_up(named, self._geo) is None:
            self._note_unpriced(f"answers of {named}")
            return declared
        return named

    def _region(self, said: object) -> str | None:
        """The region of inference that prices count: what `usage` says, else what was declared."""
        if said is None or said == "us":
            return said or self._geo
        if said not in _ANYWHERE:
            what = said if isinstance(said, str) else shape_of(said)
            self._note_unpriced(f"inference_geo {what}")
            return self._geo
        return None

    def _of(self, model: str, geo: str | None) -> ModelPrice:
        return self._look_up(model, geo) or self._price

    def _look_up(self, model: str, geo: str | None) -> ModelPrice | None:
        """The price of a model in a region; None: there is none."""
        if model == self._declared.model_id and geo == self._geo:
            return self._price
        key = model, geo
        if key not in self._found:
            self._found[key] = self._ask(model, geo)
        return self._found[key]

    def _ask(self, model: str, geo: str | None) -> ModelPrice | None:
        # Prices that the job states are those of its own model, wherever that runs.
        if self._stated is not None and is_same(model, self._declared.model_id):
            return self._price
        try:
            return find_price(model, self._at, inference_geo=geo)
        except UsageError:
            return None

    def _note(self, kind: FeeKind, name: str, picodollars: _Both, quantity: int = 1) -> _Both:
        noted = self._noted(kind, name)
        noted["quantity"] += quantity
        noted["picodollars"] = noted.get("picodollars", 0) + picodollars[0]
        return picodollars

    def _note_unpriced(self, name: str) -> None:
        self._noted(FeeKind.UNPRICED, name)["quantity"] += 1

    def _noted(self, kind: FeeKind, name: str) -> dict[str, int]:
        names = self.fees.setdefault(kind, {})
        name = "".join(filter(str.isprintable, name))[:_NAME_CHARACTERS]
        if name not in names and len(names) >= _MOST_NAMES:
            name = _OTHERS
        return names.setdefault(name, {"quantity": 0})


def _whole(usd: Decimal) -> int:
    """USD in whole picodollars."""
    return int(usd.scaleb(12).to_integral_value())


def is_same(one: str, other: str) -> bool:
    """Whether two names are of one model: dated and undated, or an alias."""
    if _DATE.sub("", one) == _DATE.sub("", other):
        return True
    found = library_id(one)
    return found is not None and found == library_id(other)


def searches_bound(declaration: Declaration, price: ModelPrice) -> Decimal:
    """The most in USD that one request's web searches cost; 0 where that has no bound."""
    return (most_searches(declaration) or 0) * (price.web_search or Decimal(0))
