"""Declarations in YAML: one loader, and every problem by file, line and key."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from batch_pipeline.errors import DeclarationError, UsageError
from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files import chains
from batch_pipeline.jobs.yaml_files.loading import find_job, load_job, load_jobs, scan_jobs

GOOD = """\
type: batch_pipeline.BatchJobComponent
attributes:
  name: {name}
  input:
    path: data/*.csv
  prompt:
    user: "{{{{ env.HOME }}}} {{text}}"
  model_id: claude-haiku-4-5-20251001
  max_tokens: 500
"""


def declare(folder: Path, name: str, text: str = GOOD) -> Path:
    """Write a job's declaration; `{name}` in the text is its name."""
    file = folder / name / "defs.yaml"
    file.parent.mkdir()
    file.write_text(text.format(name=name) if text is GOOD else text)
    return file


def lines_of(error: DeclarationError, file: Path) -> list[str]:
    return [line.removeprefix(f"{file}:") for line in str(error).splitlines()]


def refused(file: Path) -> list[str]:
    """What is wrong with a file, without its path: `line: key: message`."""
    with pytest.raises(DeclarationError) as raised:
        load_job(file)
    return lines_of(raised.value, file)


def with_line(folder: Path, extra: str) -> Path:
    """A good declaration with further lines of attributes, from line 10 on."""
    return declare(folder, "one", GOOD.format(name="one") + extra)


def test_a_declaration_becomes_a_spec(tmp_path: Path) -> None:
    spec = load_job(declare(tmp_path, "one"))
    assert spec.name == "one"
    assert spec.input.path == str(tmp_path / "one" / "data" / "*.csv")


def test_nothing_is_templated(tmp_path: Path) -> None:
    assert load_job(declare(tmp_path, "one")).prompt.user == "{{ env.HOME }} {text}"


@pytest.mark.parametrize("start", ["2026-01-01", '"2026-01-01"'])
def test_dates_may_be_quoted_or_not(tmp_path: Path, start: str) -> None:
    text = GOOD.format(name="one").replace("data/*.csv", "data/{partition}.csv")
    spec = load_job(declare(tmp_path, "one", f"{text}  partitions: {{start: {start}}}\n"))
    assert isinstance(spec.partitions, PartitionsSpec)
    assert spec.partitions.start == date(2026, 1, 1)


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    file = with_line(tmp_path, "  params: {a: &a {x: 1}, b: *a, c: {<<: *a, y: 2}}\n")
    assert load_job(file).params == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def laughs(levels: int, template: str) -> str:
    """Aliases of aliases: each level has ten times the values of the one before."""
    lines = ["  params:", "    a0: &a0 {x: 1}"]
    for level in range(1, levels):
        below = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"    a{level}: &a{level} {template.format(below)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (laughs(9, "[{}]"), "comes to over 20,000 values"),
        (laughs(9, "{{<<: [{}]}}"), "comes to over 20,000 values"),
        (f"  params: {{a: {'[' * 5_000}{']' * 5_000}}}\n", "nested more than 100 levels"),
        (f"  params: {{a: {'[' * 150}{']' * 150}}}\n", "nested more than 100 levels"),
        (f"  params: {'{a: ' * 150}1{'}' * 150}\n", "nested more than 100 levels"),
        (
            "  params:\n    a0: &a0 [1]\n"
            + "".join(f"    a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200)),
            "nested more than 100 levels",
        ),
        (f"  params: {{a: [{'1, ' * 30_000}]}}\n", "comes to over 20,000 values"),
        (f"  params: {{a: {'[' * 100_000}\n", "nested more than 100 levels"),
        (f"  description: {'long ' * 200_000}\n", "has over 1,000,000 bytes"),
    ],
    ids=[
        "lists",
        "merges",
        "thousands of levels",
        "lists in lists",
        "mappings",
        "chain",
        "one list",
        "never closed",
        "bytes",
    ],
)
def test_what_a_few_lines_would_make_endless_is_refused(
    tmp_path: Path, extra: str, said: str
) -> None:
    [line] = refused(with_line(tmp_path, extra))
    assert said in line


def test_a_schema_that_no_request_can_hold_is_refused(tmp_path: Path) -> None:
    file = with_line(tmp_path, "  output_schema_file: deep.json\n")
    for depth in (300, 100_000):
        (file.parent / "deep.json").write_text('{"a":' * depth + "1" + "}" * depth)
        [line] = refused(file)
        assert "output_schema_file: deep.json cannot be sent as JSON" in line


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        ("{delimiter: ;;}", "csv.delimiter: must be one character"),
        ("{delimiter: '\"'}", "csv.delimiter: must be one character"),
        ("{encoding: utf-99}", "csv.encoding: must be a text encoding"),
        ("{encoding: base64}", "csv.encoding: must be a text encoding"),
        ("{separator: ';'}", "csv.separator: unknown key"),
    ],
)
def test_how_csv_is_written_is_checked(tmp_path: Path, csv: str, said: str) -> None:
    text = GOOD.format(name="one").replace("data/*.csv", f"data/*.csv\n    csv: {csv}")
    [line] = refused(declare(tmp_path, "one", text))
    assert said in line


def test_every_problem_of_a_file_is_reported_with_its_line(tmp_path: Path) -> None:
    file = declare(
        tmp_path,
        "broken",
        """\
type: batch_pipeline.BatchJobComponent
extra: 1
attributes:
  name: brokn
  input:
    path: data/{id}.csv
    id_colum: x
  prompt:
    user_file: nope.md
  max_tokens: "5"
  base_dir: /elsewhere
  params:
    temperature: 1
    stream: true
  pilot:
    seed: 1
    size: -1
  mode: fast
  deadline: 22:00
  partitions: {start: 2026-13-01}
  betas:
    - one
    - 2
""",
    )
    found = refused(file)
    assert [line.partition(": ")[0] for line in found] == sorted(
        (line.partition(": ")[0] for line in found), key=int
    )
    starts = [
        "2: extra: unknown key",
        "3: attributes.model_id: is required",
        "4: attributes.name: must be the folder's name, 'broken', not 'brokn'",
        "6: attributes.input.path: holds {id}",
        "7: attributes.input.id_colum: unknown key; did you mean id_column?",
        "9: attributes.prompt.user_file: cannot read",
        "10: attributes.max_tokens: must be a whole number, not the text '5'",
        "11: attributes.base_dir: unknown key",
        "13: attributes.params.temperature: does not belong",
        "14: attributes.params.stream: does not belong",
        "17: attributes.pilot.size: must be greater than or equal to 0, not the number -1",
        "18: attributes.mode: must be 'batch', 'realtime' or 'auto', not the",
        "19: attributes.deadline: must be text, not the number 1320; put it into quotes",
        "20: attributes.partitions.start: must be a date like 2026-01-01, not '2026-13-01'",
        "23: attributes.betas.1: must be text, not the number 2; put it into quotes",
    ]
    assert len(found) == len(starts)
    for line, start in zip(found, starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("  max_tokens: 5\n", "10: attributes.max_tokens: is there twice; the first is on line 9"),
        ("  pilot: {size: 1, size: 2}\n", "10: attributes.pilot.size: is there twice"),
        ("  description: no\n", "10: attributes.description: must be text, not false; put it into"),
        ("  description:\n    - x\n", "10: attributes.description: must be text, not a list"),
        ("  pilot: 5\n", "10: attributes.pilot: must be a mapping of keys, not the number 5"),
        ("  pilot:\n", "10: attributes.pilot: must be a mapping of keys, not nothing"),
        ("  mode: fast\n", "10: attributes.mode: must be 'batch', 'realtime' or 'auto', not the"),
        ("  params: {on: 2026-01-01}\n", "10: attributes.params."),
        ("  params: {x: 2026-01-01}\n", "10: attributes.params.x: must be a value that JSON has"),
        ("  self: 1\n", "10: attributes.self: unknown key"),
        ("  desciption: x\n", "10: attributes.desciption: unknown key; did you mean description?"),
        ("  true: 1\n", "2: attributes.True: unknown key"),
        ("  pilot: {max_eror_rate: 1}\n", "10: attributes.pilot.max_eror_rate: unknown key; did"),
        ("  partitions: {strat: 2026-01-01}\n", "10: attributes.partitions.start: is required"),
        ("  output_schema_file: x.json\n", "10: attributes.output_schema_file: cannot read"),
        ("  params: &p {x: *p}\n", "10: attributes.params"),
        ("   max: 5\n", "10: "),
        ("  description: [\n", "11: "),
        ("  description: !!python/name:os.system x\n", "10: could not determine a constructor"),
        (f"  max_tokens: {'9' * 5_000}\n", "10: int cannot be read: Exceeds the limit"),
        ("  description: !!timestamp x\n", "10: timestamp cannot be read"),
        ("  description: *nowhere\n", "10: found undefined alias"),
        ("---\nmore: 1\n", "10: expected a single document"),
    ],
)
def test_problems(tmp_path: Path, extra: str, expected: str) -> None:
    assert refused(with_line(tmp_path, extra))[0].startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: must be a mapping"),
        ("- 1\n", "1: must be a mapping"),
        ("type: other.Component\nattributes:\n  name: one\n", "1: type: must be batch_pipeline."),
        ("type: batch_pipeline.BatchJobComponent\n", "1: attributes: must be a mapping"),
        ("type: batch_pipeline.BatchJobComponent\nattributes: 5\n", "2: attributes: must be a"),
    ],
)
def test_what_is_around_the_attributes(tmp_path: Path, text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in refused(declare(tmp_path, "one", text)))


def test_unreadable_files(tmp_path: Path) -> None:
    file = declare(tmp_path, "one")
    file.write_bytes(b"name: \xff\xfe")
    assert refused(file)[0].startswith("1: is not readable text")
    with pytest.raises(DeclarationError, match=r"no.yaml: cannot be read: No such file"):
        load_job(tmp_path / "no.yaml")


def test_a_folder_of_jobs(tmp_path: Path) -> None:
    for name in ("two", "one", ".hidden"):
        declare(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert list(load_jobs(tmp_path)) == ["one", "two"]


def test_a_broken_job_hides_no_other(tmp_path: Path) -> None:
    declare(tmp_path, "good")
    files = [declare(tmp_path, name, "attributes: {}\n") for name in ("bad", "worse")]
    scan = scan_jobs(tmp_path)
    assert list(scan.specs) == ["good"]
    assert list(scan.errors) == ["bad", "worse"]
    with pytest.raises(DeclarationError) as raised:
        load_jobs(tmp_path)
    for file in files:
        assert f"{file}:1: type: must be" in str(raised.value)


def test_find_job(tmp_path: Path) -> None:
    declare(tmp_path, "contract_review")
    declare(tmp_path, "broken", "attributes: {}\n")
    assert find_job(tmp_path, "contract_review").name == "contract_review"
    with pytest.raises(DeclarationError):
        find_job(tmp_path, "broken")
    with pytest.raises(UsageError, match=r"did you mean 'contract_review'\? the jobs are: broken,"):
        find_job(tmp_path, "contract_reveiw")
    with pytest.raises(UsageError, match=r"there is no job '\.\./x'"):
        find_job(tmp_path, "../x")


def test_no_jobs_at_all(tmp_path: Path) -> None:
    assert load_jobs(tmp_path) == {}
    with pytest.raises(UsageError, match=r"no \*/defs.yaml under .*BATCH_PIPELINE_JOBS_DIR"):
        find_job(tmp_path, "one")
    with pytest.raises(UsageError, match=r"no folder of jobs at .*BATCH_PIPELINE_JOBS_DIR"):
        scan_jobs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"one": "two", "two": "three", "three": "one"}, "ask about each other's answers"),
        ({"one": None, "two": "one"}, None),
        ({"two": "elsewhere"}, None),
        ({"daily": None, "two": "daily"}, "daily has other partitions"),
    ],
)
def test_a_chain_of_jobs_begins_somewhere_and_has_one_kind_of_nights(
    inputs: dict[str, str | None], message: str | None
) -> None:
    specs = {
        name: JobSpec(
            name=name,
            input={"job": earlier} if earlier else {"path": "/data/{partition}.csv"},
            prompt={"user": "{id}"},
            model_id="claude-haiku-4-5-20251001",
            max_tokens=10,
            partitions={"start": "2026-01-01"} if name == "daily" else None,
        )
        for name, earlier in inputs.items()
    }
    found = chains.problems(specs)
    assert bool(found) == (message is not None)
    assert all((message or "") in each for each in found.values())
