"""The ledger's tables: rows per night, snapshot, shard, submission, alert, worker; none per item.

    this ledger        schema_version, identity, steady_clock
    who sends          account, organisation, cache_prefix
    what is asked      night, snapshot, shard; reading and piece while several workers read an input
    what was sent      submission, takeover; seen and list_mark of the API's list of batches
    what came back     model_usage, settled_items, first_error, error_example, fee, answers_file
    what people did    approval, action, redriven
    who works          worker, tick, alert, publication

Times are seconds since the epoch by the database's clock, amounts whole picodollars (`amounts`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from batch_pipeline.ledger.database.amounts import Usd
from batch_pipeline.pricing.tokens import TOKENS

# Raised by a release that adds a table, a column or an index; `migrations` makes these in a ledger
# of an older version.
SCHEMA_VERSION = 7


def by_key(table: Table, row: RowMapping) -> dict[str, Any]:
    """A row's values by Python's names; some columns have another one in the database."""
    return {column.key: row[column] for column in table.columns}


metadata = MetaData()

schema = Table("schema_version", metadata, Column("version", Integer, nullable=False))

# One row: which ledger this is, to which home it belongs, and the number of times that something
# was about to be sent. The home carries the same, see `flow.home_mark`.
identity = Table(
    "identity",
    metadata,
    Column("ledger", String(40), primary_key=True),
    Column("home", String(40)),
    # Where the home was when it was last opened, without user names and passwords; for people.
    Column("home_location", Text),
    Column("sent", BigInteger, nullable=False, default=0),
)

account = Table(
    "account",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("simulated", Boolean, nullable=False),
    # Credentials, billing, spend limit: nothing is sent but a probe, whose success ends the pause.
    Column("paused_reason", Text),
    # Since when, so that one pause causes one alert and the next one another.
    Column("paused_at", Double),
    # Result lines told of it: an accepted batch proves nothing then, its results do.
    Column("paused_by_results", Boolean, nullable=False, server_default=sa.false()),
    # When the next probe may go, and how long after it the one that follows.
    Column("probe_at", Double),
    Column("probe_seconds", Double),
    # When the last pause ended: what was sent before is no evidence for another one.
    Column("lifted_at", Double),
    # The API said that its queue is full: no batch is created before this time.
    Column("wait_until", Double, nullable=False, default=0.0),
    # The API asked not to be asked for batches and lists before this time.
    Column("reads_wait_until", Double, nullable=False, server_default="0"),
    # The workspace of what is in flight, and that of the key that asked last, by the API's headers.
    Column("workspace", String(200)),
    Column("key_workspace", String(200)),
    # Since when the API does not answer, when it was asked last, and how it failed; NULL: it does.
    Column("unanswered", JSON(none_as_null=True)),
    # Whose its answers are, and whose queue and rate limits it shares; NULL: its own.
    Column("owner", String(100)),
    Column("organisation", String(100)),
    # False: an owner of nights whose accounts have other names; nothing is sent under it.
    Column("sends", Boolean, nullable=False, default=True, server_default=sa.true()),
    # The id of the organisation that the API named with its last answer.
    Column("organisation_id", String(200)),
    # The API refused its key: since when, and in which words; NULL: it did not.
    Column("refused", JSON(none_as_null=True)),
)

# Organisations, whose accounts share one queue and one set of rate limits.
organisation = Table(
    "organisation",
    metadata,
    Column("name", String(100), primary_key=True),
    # Its id by the API's headers, from the first answer on; an account of another one is refused.
    Column("api_id", String(200)),
    # The API said that its queue is full: no batch is created before this time.
    Column("wait_until", Double, nullable=False, default=0.0, server_default="0"),
    # The limit of its queue in requests, as an admin key read it from the API, and when.
    Column("limit_read", BigInteger),
    Column("limit_read_at", Double),
)

night = Table(
    "night",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(200), nullable=False),
    Column("partition", String(200), nullable=False),
    # Whose the night and its answers are; see `accounts`. The column is named as in older ledgers.
    Column("account", ForeignKey("account.name"), key="owner", nullable=False),
    Column("created_at", Double, nullable=False),
    Column("snapshot_id", Integer),
    # Requests that are part of no shard yet; an upper bound until the next plan counts them.
    Column("open_requests", BigInteger, nullable=False, default=0),
    # Requests with an answer of which is not decided yet whether it is escalated, or stands. They
    # are in no shard, and not among the `open_requests`.
    Column("undecided", BigInteger, nullable=False, default=0, server_default="0"),
    # Raised by every change of what is to be sent: a plan made for an older revision is discarded.
    Column("revision", Integer, nullable=False, default=0),
    # The results folder shows this night; of the accounts of one job and partition only one is.
    Column("published", Boolean, nullable=False, default=False),
    # Set while the results folder is rebuilt: where a process finds it set, it rebuilds it again.
    Column("rebuilding", Boolean, nullable=False, default=False),
    Column("held_at", Double),
    # Why the API refused a body of this night: nothing is sent until a person runs it again.
    Column("refused", Text),
    # When the night last found no room in the queue: older nights that want room go first.
    Column("wanted_room_at", Double, nullable=False, default=0.0),
    Column("pilot", JSON),
    # What the night was expected to cost when its input was taken, as `estimate --json` has it.
    Column("estimate", JSON),
    # The ceiling that the next shard did not fit under when it was last tried, and why.
    Column("short_of_budget", JSON),
    # How spending passed a ceiling, if it did: input had more tokens than its bound allowed for.
    Column("over_budget", Text),
    # Mode auto: when the results are due, fixed when the input was taken; NULL: no deadline.
    Column("deadline_at", Double),
    # When a person removed snapshot and raw lines: the night cannot be run again.
    Column("pruned_at", Double),
    # Since when open requests go in real time, because batches would miss the deadline.
    Column("realtime_since", Double),
    # Requests that failed are not asked again before this time; rounds of them in a row so far.
    Column("retry_at", Double),
    Column("retry_rounds", Integer, nullable=False, default=0, server_default="0"),
    # The partition whose end is waited for, because its answers may be reused.
    Column("waits_for", String(200)),
    # What is published as typed rows beside the results, as the job declared it.
    Column("output", JSON(none_as_null=True)),
    # Near duplicates that are not asked, because their leaders are to answer for them.
    Column("held_twins", BigInteger, nullable=False, default=0, server_default="0"),
    # Since when nearly all answers fail for reasons that pass; NULL: they do not.
    Column("storm_since", Double),
    # The last forecast of the deadline; see `flow.deadline`.
    Column("forecast", JSON),
    # Names of the accounts that may send it, as of its last opening; NULL: its owner alone.
    Column("accounts", JSON(none_as_null=True)),
    # Why its last run ended without success: code, reason, remedy, time; NULL: it did not.
    Column("failure", JSON(none_as_null=True)),
    # When its submission was last asked for: by a run that includes it, or by a person.
    Column("asked_at", Double),
    Column("completed_at", Double),
    UniqueConstraint("job", "partition", "owner"),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("folder", Text, nullable=False),
    Column("signature", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("declaration_hash", String(64), nullable=False),
    Column("declaration", JSON, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("items", BigInteger, nullable=False),
    # Rows that are not sent: {status: {reason: count}}.
    Column("set_aside", JSON, nullable=False),
    # Items that a request of an earlier item answers.
    Column("duplicates", BigInteger, nullable=False),
    Column("request_bytes", BigInteger, nullable=False),
    # Of requests with documents: what their tokens follow from, and those of pages and images among
    # it; NULL: the bytes, and none. Documents by media type: files, pages, bytes of text.
    Column("prompt_size", BigInteger),
    Column("visual_tokens", BigInteger),
    Column("documents", JSON(none_as_null=True)),
    # Requests that a former declaration made, and that are answered as they were.
    Column("kept", BigInteger, nullable=False, default=0, server_default="0"),
    # Layers of rows that those of this snapshot lie on: folder, parts, hash of the declaration.
    Column("below", JSON, nullable=False, server_default="[]"),
    # Requests that are not sent although rows asked for them: {cause: {documents, bytes}}.
    Column("avoided", JSON, nullable=False, server_default="{}"),
    # Where rows are from that are not files: kind, origin, version, rows, columns.
    Column("source", JSON(none_as_null=True)),
    # Items by status that were settled when the snapshot was taken: set aside, or bought before.
    Column("settled", JSON, nullable=False),
    Column("taken_at", Double, nullable=False),
)

shard = Table(
    "shard",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("snapshot_id", ForeignKey("snapshot.id"), nullable=False),
    Column("engine", String(20), nullable=False),
    Column("pilot", Boolean, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("usd_bound", Usd, nullable=False),
    # What a bound in USD follows from without reading the requests again: what the tokens of all
    # follow from where they have documents (NULL: `bytes`), of the largest, sum of `max_tokens`.
    Column("prompt_size", BigInteger),
    Column("largest_bytes", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    # The same by what the requests are priced at (`pricing.bounds.Part`); NULL: all are asked of
    # the declared model.
    Column("parts", JSON(none_as_null=True)),
    # Each request has an answer that succeeded, which stands if this one fails or cannot be had.
    Column("optional", Boolean, nullable=False, default=False, server_default=sa.false()),
    # Goes in real time because batches would miss the night's deadline.
    Column("for_deadline", Boolean, nullable=False, default=False),
    # The submission by which the API refused the body: the shard is split before anything of it is
    # sent again. `origin`: the first shard that all these parts were split from, or the shard
    # itself.
    Column("refused_by", Integer),
    Column("origin", Integer),
    # Warms up the prompt cache, for the prefix with this key; see `cache_prefix`.
    Column("warms", String(32)),
    Column("state", String(20), nullable=False),
    Column("created_at", Double, nullable=False),
    # The next shard to go is found, and what waits is summed up, without reading the rows: 100,000
    # shards may wait.
    Index("shard_to_go", "night_id", "state", "engine", "id", "requests"),
    Index("shard_by_snapshot", "snapshot_id", "pilot", "id"),
    Index(
        "shard_to_split",
        "night_id",
        "state",
        "refused_by",
        sqlite_where=sa.text("refused_by IS NOT NULL"),
        postgresql_where=sa.text("refused_by IS NOT NULL"),
    ),
    Index(
        "shard_part",
        "night_id",
        "state",
        "engine",
        "origin",
        sqlite_where=sa.text("origin IS NOT NULL"),
        postgresql_where=sa.text("origin IS NOT NULL"),
    ),
    Index(
        "shard_warm_up",
        "night_id",
        "state",
        "warms",
        sqlite_where=sa.text("warms IS NOT NULL"),
        postgresql_where=sa.text("warms IS NOT NULL"),
    ),
)

submission = Table(
    "submission",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("shard_id", ForeignKey("shard.id"), nullable=False),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    # Snapshot, `pilot` and engine are the shard's, repeated here so that sums need no join.
    Column("snapshot_id", ForeignKey("snapshot.id"), nullable=False),
    Column("pilot", Boolean, nullable=False),
    Column("account", ForeignKey("account.name"), nullable=False),
    Column("engine", String(20), nullable=False),
    Column("token", String(20), nullable=False, unique=True),
    Column("requests", Integer, nullable=False),
    Column("usd_bound", Usd, nullable=False),
    Column("state", String(20), nullable=False),
    Column("owner", String(200), key="holder", nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("intent_at", Double, nullable=False),
    # When the answer to the create was lost: the API's list is searched from then on.
    Column("window_from", Double),
    # Row of `list_mark`: what the API listed before the last bytes left. NULL: not known.
    Column("mark_id", Integer),
    # Ids of listed batches that may be this one's, the likeliest first, as of the last look.
    Column("candidates", JSON),
    # When a complete look after the reconcile time fixed `candidates`: later batches are none.
    Column("candidates_from", Double),
    # Why the list proves nothing of it yet.
    Column("waits_for", Text),
    Column("error", Text),
    Column("batch_id", String(100), unique=True),
    Column("accepted_at", Double),
    Column("expires_at", Double),
    Column("cancel_requested_at", Double),
    # Since when the API answers that it does not know the batch; NULL: it does.
    Column("missing_since", Double),
    Column("ended_at", Double),
    Column("collected_at", Double),
    # What collection found; `sums` adds these up. Billed tokens by class, and their price.
    *(Column(name, BigInteger, nullable=False, default=0) for name in TOKENS),
    Column("cost_usd", Usd),
    # Answers with billed prompt tokens, the bytes of their requests, and those tokens.
    Column("measured_answers", BigInteger, nullable=False, default=0),
    Column("measured_bytes", BigInteger, nullable=False, default=0),
    Column("measured_tokens", BigInteger, nullable=False, default=0),
    # First attempts that the API worked on, and those of them that need a fix: what the breaker
    # judges by. 0 once the answers were redriven.
    Column("first_attempts", BigInteger, nullable=False, default=0),
    Column("first_need_fix", BigInteger, nullable=False, default=0),
    # Requests that failed for a reason that passes.
    Column("passing", BigInteger, nullable=False, default=0, server_default="0"),
    # Answers that were kept because `retry.escalate.where` was NULL for them, or failed.
    Column("unjudged", BigInteger, nullable=False, default=0, server_default="0"),
    # Requests whose results can never be had, and what they may have cost at most.
    Column("gone_requests", BigInteger, nullable=False, default=0),
    Column("gone_usd", Usd, nullable=False, default=Decimal(0)),
    # At most billed for answers that do not say, in a usable form, what was billed for them.
    Column("estimated_usd", Usd, nullable=False, default=Decimal(0), server_default="0"),
    # Another submission had answered the shard before: billed, but its answers are not shown.
    Column("duplicate", Boolean, nullable=False, default=False),
    # What may have been billed besides, and can never be proven: it counts as spent.
    Column("unproven_usd", Usd),
    # The prices that the job stated when this was sent; NULL: the published prices.
    Column("stated_prices", JSON),
    # What refused the create, or the row alone that this submission stands for; see `refusals`.
    Column("refusal", JSON(none_as_null=True)),
    # The lifetime of the cache marks that its requests carry, `5m` or `1h`; NULL: they have none.
    Column("caching", String(2)),
    # The models whose requests carry them; NULL: all.
    Column("marked_models", JSON(none_as_null=True)),
    # As in `shard`.
    Column("warms", String(32)),
    # What the prompt cache saved: reads less what writes cost above plain input; negative: it cost
    # that. NULL: nothing was written or read.
    Column("cache_saved_usd", Usd),
    # Which process collects it, and until when its claim holds; see `leases`.
    Column("collector", String(200)),
    Column("collect_until", Double),
    # Whole downloads of its results that lacked lines, and when the next one is due.
    Column("downloads", Integer, nullable=False, default=0),
    Column("next_download_at", Double),
    # Downloads in a row that failed: the API gave no results, or they broke off.
    Column("failed_downloads", Integer, nullable=False, default=0, server_default="0"),
    # What the answers come to that are published already, while other lines are missing.
    Column("published", JSON(none_as_null=True)),
    # How far real-time calls were at their last checkpoint.
    Column("progress", JSON),
    # Names of the files of its answers, where they are others than its token says.
    Column("answer_files", JSON(none_as_null=True)),
    Index("submission_by_account", "account", "state"),
    Index("submission_by_time", "account", "intent_at"),
    Index("submission_latest", "night_id", "state", "id"),
    Index("submission_by_shard", "shard_id"),
    Index("submission_by_state", "state", "night_id"),
    Index(
        "submission_refused",
        "night_id",
        "state",
        sqlite_where=sa.text("refusal IS NOT NULL"),
        postgresql_where=sa.text("refusal IS NOT NULL"),
    ),
    Index(
        "submission_cached",
        "night_id",
        sqlite_where=sa.text("cache_saved_usd IS NOT NULL"),
        postgresql_where=sa.text("cache_saved_usd IS NOT NULL"),
    ),
    Index(
        "submission_warm_up",
        "account",
        "warms",
        "id",
        sqlite_where=sa.text("warms IS NOT NULL"),
        postgresql_where=sa.text("warms IS NOT NULL"),
    ),
    # Where a night stands is summed up from this index alone: reading 100,000 whole rows for it
    # would take five times as long.
    Index(
        "submission_sums",
        "night_id",
        "snapshot_id",
        "pilot",
        "engine",
        "first_attempts",
        "first_need_fix",
        "requests",
        "cost_usd",
        "intent_at",
        "collected_at",
        *TOKENS,
        "measured_answers",
        "measured_bytes",
        "measured_tokens",
        "gone_requests",
        "gone_usd",
        sqlite_where=sa.text("collected_at IS NOT NULL"),
        postgresql_where=sa.text("collected_at IS NOT NULL"),
    ),
)

# What a collected submission was billed for answers of other models than the declared one, each by
# the model that it was asked of.
model_usage = Table(
    "model_usage",
    metadata,
    Column("night_id", ForeignKey("night.id"), primary_key=True),
    Column("model_id", String(200), primary_key=True),
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("snapshot_id", ForeignKey("snapshot.id"), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in TOKENS),
    Column("cost_usd", Usd, nullable=False),
    Column("measured_answers", BigInteger, nullable=False),
    Column("measured_bytes", BigInteger, nullable=False),
    Column("measured_tokens", BigInteger, nullable=False),
    # As in `submission`, of this model; 0: nothing was written or read.
    Column("cache_saved_usd", Usd, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

# Files of answers that no submission of their night bought, with the schema of answers. `origin`
# says why they were made: a row without a `name` records that nothing was found.
answers_file = Table(
    "answers_file",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("snapshot_id", ForeignKey("snapshot.id"), nullable=False),
    Column("origin", String(20), nullable=False),
    # In the night's folder of answers.
    Column("name", Text),
    # Distinct requests that it answers.
    Column("units", BigInteger, nullable=False),
    Column("recorded_at", Double, nullable=False),
    Index("answers_file_by_night", "night_id"),
)

# Items that the answers of a collected submission settled, by status. Clustered by snapshot on
# SQLite: a night's items by status are one pass over neighbouring rows.
settled_items = Table(
    "settled_items",
    metadata,
    Column("snapshot_id", ForeignKey("snapshot.id"), primary_key=True),
    Column("status", String(20), primary_key=True),
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("items", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# First attempts of a collected submission that need a fix, by type of error: the most frequent.
# Clustered likewise.
first_error = Table(
    "first_error",
    metadata,
    Column("night_id", ForeignKey("night.id"), primary_key=True),
    Column("snapshot_id", ForeignKey("snapshot.id"), primary_key=True),
    Column("pilot", Boolean, primary_key=True),
    Column("error_type", String(200), primary_key=True),
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# What answers were billed beside tokens at the declared model's price, by `FeeKind`; without an
# amount: what has no price.
fee = Table(
    "fee",
    metadata,
    Column("night_id", ForeignKey("night.id"), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Column("usd", Usd),
    sqlite_with_rowid=False,
)

# Up to three examples of such an error, `id: message`, of each snapshot, of pilot and of the rest.
error_example = Table(
    "error_example",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("snapshot_id", ForeignKey("snapshot.id"), nullable=False),
    Column("pilot", Boolean, nullable=False),
    Column("error_type", String(200), nullable=False),
    Column("example", Text, nullable=False),
    Index("error_example_by_night", "night_id"),
)

# What is known of the part that all prompts of a job share, and that the API may cache. `tokens` is
# what the API counted; NULL: it did not, as `problem` says.
cache_prefix = Table(
    "cache_prefix",
    metadata,
    Column("account", ForeignKey("account.name"), primary_key=True),
    Column("prefix", String(32), primary_key=True),
    Column("model_id", String(200), nullable=False),
    Column("tokens", BigInteger),
    Column("problem", Text),
    Column("counted_at", Double, nullable=False),
)

# Gates that a person overruled, with the declaration and the input that this was meant for.
approval = Table(
    "approval",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("gate", String(20), nullable=False),
    Column("declaration_hash", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("approved_by", String(200), nullable=False),
    Column("approved_at", Double, nullable=False),
    Index("approval_by_night", "night_id"),
)

# What people did to nights, and who they said they are. `partition` of a prune is the first that
# stays.
action = Table(
    "action",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(200), nullable=False),
    Column("partition", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("done_by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("done_at", Double, nullable=False),
    Index("action_by_night", "job", "partition"),
)

# Answers that a redrive set free: those of this status in this submission settle no item any more.
redriven = Table(
    "redriven",
    metadata,
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("status", String(20), primary_key=True),
    Column("redriven_at", Double, nullable=False),
)

# Batches that are cancelled so that real-time calls answer their requests before the deadline.
# `usd` is what the calls may cost, reserved before the cancel; `left_usd` is the part of it that no
# real-time shard has claimed yet.
takeover = Table(
    "takeover",
    metadata,
    Column("submission_id", ForeignKey("submission.id"), primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("usd", Usd, nullable=False),
    Column("left_usd", Usd, nullable=False),
    Column("reserved_at", Double, nullable=False),
    # The API has taken the cancel.
    Column("cancelled_at", Double),
    Index("takeover_by_night", "night_id"),
)

# Batches of the API's list that were attributed: to a submission, or NULL: not of this ledger.
seen = Table(
    "seen",
    metadata,
    Column("account", ForeignKey("account.name"), primary_key=True),
    Column("batch_id", String(100), primary_key=True),
    Column("submission_id", ForeignKey("submission.id")),
)

# The newest batches of the API's list before a submission was sent, newest first. `odd`: entries
# among them without a readable id; `whole`: the list had no more than these.
list_mark = Table(
    "list_mark",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account", ForeignKey("account.name"), nullable=False),
    Column("read_at", Double, nullable=False),
    Column("ids", JSON, nullable=False),
    Column("odd", Integer, nullable=False),
    Column("whole", Boolean, nullable=False),
    Index("list_mark_by_account", "account", "id"),
)

# Remote homes: files that a transaction has given their names, and that are still to be moved; see
# `publications`. Never two at a time of one partition.
publication = Table(
    "publication",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(200), nullable=False),
    Column("partition", String(200), nullable=False),
    Column("steps", JSON, nullable=False),
    # Which process carries it out, and until when its claim holds.
    Column("owner", String(200), key="holder"),
    Column("lease_until", Double),
    Index("publication_by_partition", "job", "partition", "id"),
)

# SQLite: what a machine's steady clock, which no one sets, is to be raised by to give the ledger's
# time, by boot; see `ledger.database.ledger.now`.
steady_clock = Table(
    "steady_clock",
    metadata,
    Column("boot", String(100), primary_key=True),
    Column("ahead", Double, nullable=False),
)

# Alerts of a night, one for each cause. Targets are not named: their addresses are secrets.
alert = Table(
    "alert",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False),
    Column("cause", String(300), nullable=False),
    Column("code", String(40), nullable=False),
    Column("message", Text, nullable=False),
    Column("recorded_at", Double, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    # Not sent before this time: a pause after a failure, or the lease of the process that sends.
    Column("next_at", Double, nullable=False, default=0.0),
    # Positions of the targets that have it: they are left out when it is sent again.
    Column("delivered", JSON, nullable=False),
    Column("sent_at", Double),
    UniqueConstraint("night_id", "cause"),
    Index("alert_by_state", "state", "next_at"),
)

# Workers of a scheduler's runs: until when each counts as alive.
worker = Table(
    "worker",
    metadata,
    Column("run", String(100), primary_key=True),
    Column("alive_until", Double, nullable=False),
)

# The sensor's last ticks, for metrics: of each job the last one, the last that succeeded, and what
# troubled the last one.
tick = Table(
    "tick",
    metadata,
    Column("job", String(200), primary_key=True),
    Column("at", Double, nullable=False),
    Column("ok_at", Double),
    Column("trouble", Text),
)

# An input that several workers read, as long as it is not finished. `key`: what is read and how; a
# run with the same key goes on with the pieces that are done.
reading = Table(
    "reading",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("night_id", ForeignKey("night.id"), nullable=False, unique=True),
    Column("key", String(64), nullable=False),
    # Names its folder in the home.
    Column("token", String(16), nullable=False),
    # How many pieces there are; NULL: the input is not cut yet; 0: one worker reads it alone.
    Column("pieces", Integer),
    Column("codec", String(20), nullable=False),
    # Why the input cannot be read.
    Column("problem", JSON(none_as_null=True)),
    Column("created_at", Double, nullable=False),
)

# Pieces of such an input: each is prepared by the worker that claims it. The last one stands for
# putting all of them together.
piece = Table(
    "piece",
    metadata,
    Column("reading_id", ForeignKey("reading.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    # Its first byte in the reading's plan, and the one after its last; NULL: putting together.
    Column("place", JSON(none_as_null=True)),
    # Which process prepares it, and until when its claim holds.
    Column("holder", String(200)),
    Column("lease_until", Double),
    Column("fence", Integer, nullable=False, default=0),
    # How many workers have begun it.
    Column("tries", Integer, nullable=False, default=0),
    # What came of it: names of its parts, and counts.
    Column("result", JSON(none_as_null=True)),
    sqlite_with_rowid=False,
)
