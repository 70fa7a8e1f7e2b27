"""The files of a new job: `defs.yaml` with comments, the prompt, the answer's schema."""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.reading.listing import find_sources, is_remote
from batch_pipeline.jobs.yaml_files import loading
from batch_pipeline.jobs.yaml_files.component_file import COMPONENT_TYPE
from batch_pipeline.jobs.yaml_files.yaml_flow import in_one_line
from batch_pipeline.safe_text import one_line
from batch_pipeline.scaffolding.guess import MOST_ROWS, Guess, guess

DEFAULT_MODEL = "claude-haiku-4-5-20251001"
# What the smallest context window of today's models leaves to a document, in characters.
_MOST_CHARACTERS = 600_000
# How many columns a comment names.
_NAMED = 20
_DOCUMENTS = [
    {"id": "1", "text": "The parties may end this agreement at three months' notice."},
    {"id": "2", "text": "Dear team, the invoice of last week has not arrived yet."},
    {"id": "3", "text": "Permission is granted to copy and distribute this document."},
]
_SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "description": "What kind of document it is, in two words"},
        "summary": {"type": "string", "description": "What it says, in two sentences"},
    },
    "required": ["kind", "summary"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class NewJob:
    """A job to be written, with its declaration and texts by file name."""

    name: str
    folder: Path
    guessed: Guess
    files: dict[str, str]


def new_job(
    folder: Path,
    source: str | None = None,
    *,
    root: Path,
    id_column: str | None = None,
    model_id: str = DEFAULT_MODEL,
) -> NewJob:
    """The job of a folder, guessed from a file or glob, or with three documents of its own.

    The path of a source below `root` is written relative to the folder, so that the project can be
    moved. Raises UsageError where the folder holds anything already, or its name is no job's.
    """
    name = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(
            f"{name!r} cannot be a job's name: small letters, digits and _, a letter first"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and is not empty; choose another name")
    files: dict[str, str] = {}
    if source is None:
        path = "documents.jsonl"
        files[path] = "".join(json.dumps(row) + "\n" for row in _DOCUMENTS)
        lengths = [len(row["text"]) for row in _DOCUMENTS]
        found = Guess("id", "text", (), len(lengths), sum(lengths) // len(lengths), max(lengths))
    else:
        path = _path(folder, source, root)
        shown = source if is_remote(source) else str(Path(source).absolute())
        found = guess(find_sources(shown, "", {}), id_column)
    files["user.md"] = _prompt(found)
    files["answer.schema.json"] = json.dumps(_SCHEMA, indent=2) + "\n"
    files[loading.FILE_NAME] = _declaration(name, path, found, model_id)
    return NewJob(name, folder, found, files)


def write(job: NewJob) -> None:
    """Write the files, the declaration last, and read it as the command line and Dagster do."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for name, text in job.files.items():
        (job.folder / name).write_text(text, encoding="utf-8")
    loading.load_file(job.folder / loading.FILE_NAME)


def _path(folder: Path, source: str, root: Path) -> str:
    if "{" in source or "}" in source:
        raise UsageError(
            f"{source}: name one existing file; braces, as {{partition}} for the night's key, are "
            "written into defs.yaml afterwards"
        )
    if is_remote(source):
        return source
    absolute, folder = Path(source).absolute(), folder.absolute()
    if not absolute.exists() and not glob.has_magic(source):
        raise UsageError(f"there is no file {absolute} to guess a job from")
    if not absolute.is_relative_to(root.absolute()):
        return str(absolute)
    below = next(above for above in (folder, *folder.parents) if absolute.is_relative_to(above))
    up = [".."] * len(folder.relative_to(below).parts)
    return "/".join([*up, *absolute.relative_to(below).parts])


def _prompt(found: Guess) -> str:
    # A file is a block of its own, a text needs marks of where it begins and ends.
    column = f"{{{found.text_column}}}"
    document = column if found.of_files else f"<document>\n{column}\n</document>"
    return f"Say what kind of document this is, and what it says.\n\n{document}\n"


def _declaration(name: str, path: str, found: Guess, model_id: str) -> str:
    today = datetime.now(UTC).date().isoformat()
    written = {"delimiter": found.delimiter, "encoding": found.encoding}
    unusual = {key: value for key, value in written.items() if value not in (",", "utf-8")}
    csv = f"    csv: {in_one_line(unusual)}\n" if unusual else ""
    return f"""\
type: {COMPONENT_TYPE}
attributes:
  name: {name}
  description: What kind of document each is, and what it says
  input:
{_facts(found)}
    path: {in_one_line(path)}
    id_column: {in_one_line(found.id_column)}
{csv}\
    # Dagster assets that the documents come from:
    # upstream: [raw/documents]
  prompt:
    system: You are a careful analyst. Judge each document by its wording alone.
    # Column names in braces are filled in; what is the same for all documents comes first.
    user_file: user.md
  model_id: {model_id}
  # Of one answer. `batch-pipeline estimate {name}` says what the job costs with it.
  max_tokens: 1000
  # Asked for as structured output, and checked on every answer.
  output_schema_file: answer.schema.json
  # Beside the results: columns of the input with the answers, whose fields are typed columns.
  # output: {in_one_line({"carry": list(found.other_columns[:3]), "typed": True})}
  # The sample that goes first, at most a tenth of the night; the rest is sent if it is good.
  pilot: {{size: 100}}
  # No night may cost more, what is in flight included:
  # budget: {{max_usd_per_partition: 50}}
  # One night a day: write {{partition}} into the path, and
  # partitions: {{start: "{today}", timezone: UTC}}
  # schedule: "0 2 * * *"
  # owners: ["team:documents"]
# Dagster's own, for single assets:
# post_processing:
#   assets:
#     - target: key:"{name}/collected_results"
#       attributes:
#         tags: {{domain: documents}}
"""


def _facts(found: Guess) -> str:
    """Comments on what was found in the file."""
    at_least = "at least " if found.rows >= MOST_ROWS else ""
    unit = "bytes" if found.of_files else "characters"
    sizes = f"{found.mean_length:,} {unit} on average, {found.longest:,} at most"
    facts = [f"{at_least}{found.rows:,} documents; `{found.text_column}` has {sizes}."]
    if found.of_files:
        facts.append("PDFs go page by page; pdf: {as: text} sends their text alone.")
    if found.other_columns:
        facts.append(
            f"Columns besides, for the prompt and filters: {_listed(found.other_columns)}."
        )
    if found.empty_texts:
        facts.append(
            f"{found.empty_texts:,} rows have no `{found.text_column}`: they are set aside."
        )
    if found.longest > _MOST_CHARACTERS and not found.of_files:
        facts.append("The longest documents may be more than the model takes: filters.max_words.")
    return "\n".join(f"    # {one_line(fact)}" for fact in facts)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:_NAMED]) + more
