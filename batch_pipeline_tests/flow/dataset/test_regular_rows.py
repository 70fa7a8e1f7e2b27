"""The common line is read without being parsed, to the same rows that any line is read to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset import line_blocks, regular_rows
from batch_pipeline.flow.dataset import rows as readers
from batch_pipeline.flow.dataset.columns import Wanted
from batch_pipeline.flow.dataset.files import find_sources
from batch_pipeline.flow.dataset.line_forms import Line, form_of
from batch_pipeline.flow.dataset.regular_rows import Lines
from batch_pipeline.flow.dataset.rows import Row, read_rows

COLUMNS = ("text", "title")
WANTED = Wanted("id", COLUMNS)
FIRST = {"id": "first", "text": "a", "title": "b"}
LONG = "a text that is longer than what is left in its line " * 3


def line_by_line(stream: BinaryIO, size: int | None, _wanted: Wanted) -> Iterator[bytes]:
    data = stream.read() if size is None else stream.read(size)
    return iter(data.removesuffix(b"\n").split(b"\n") if data else ())


def read(path: Path) -> list[Row] | str:
    try:
        return list(read_rows(find_sources(str(path), "all", {}), "id", COLUMNS))
    except InputDataError as error:
        return str(error)


COMMON = st.one_of(
    st.text('\\"/abu\n\x01é\u2028\U0001f600', min_size=1, max_size=12),
    st.sampled_from([" ", LONG, 'text":"', '"title":', 'ends so "text', LONG + '"\n\\']),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.text('\\"/abu\n\x7f\x010é\u2028\U0001f600', max_size=12),
    st.sampled_from(["", " ", LONG, 'text":"', '"title":', "\x7f0", "\\u007f0", 'ends so "text']),
)
CELLS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(TEXTS, max_size=2),
    st.dictionaries(st.sampled_from(["text", "a"]), TEXTS, max_size=2),
)
NESTED = st.one_of(
    st.lists(COMMON, max_size=2),
    st.dictionaries(st.sampled_from(["text", "a"]), COMMON, max_size=2),
)
NAMES = st.sampled_from(["note", "te", 'a"text', "ä", LONG, "\x7f0", "text "])
WRITERS = st.sampled_from(
    [
        orjson.dumps,
        lambda row: json.dumps(row).encode(),
        lambda row: json.dumps(row).encode().replace(b"\\u00e9", b"\\u00E9"),
        lambda row: json.dumps(row, ensure_ascii=False).encode(errors="surrogatepass"),
        lambda row: json.dumps(row, separators=(",", " :\t")).encode(),
        lambda row: json.dumps(row).encode().replace(b"/", b"\\/"),
        # The last of two cells of one name counts.
        lambda row: b'{"text": "former", ' + json.dumps(row).encode()[1:],
    ]
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    cells: st.SearchStrategy[Any]
    ids: st.SearchStrategy[Any]
    common = draw(st.integers(0, 3))
    if common:
        cells, ids = COMMON, COMMON | st.integers()
        row: dict[str, Any] = draw(
            st.dictionaries(
                st.sampled_from(["note", "ä"]), COMMON | NESTED | st.floats(), max_size=2
            )
        )
    else:
        cells, ids = TEXTS | CELLS, TEXTS | st.integers()
        row = draw(st.dictionaries(NAMES, CELLS, max_size=2))
    asked: dict[str, Any] = {"id": ids, "text": cells, "title": cells}
    for name in draw(st.permutations(list(asked))):
        if common or name != "title" or draw(st.booleans()):
            row[name] = draw(asked[name])
    try:
        line: bytes = draw(WRITERS)(row)
    except TypeError:  # a lone surrogate
        line = json.dumps(row).encode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(line)))
        put = draw(
            st.sampled_from([b"", b"\\", b'"', b"\x7f", b"\xff", b"\t", b"\r", b"}", b"\xc3"])
        )
        line = line[:at] + put + line[at + draw(st.integers(0, 1)) :]
    return line


@st.composite
def lines_alike(draw: st.DrawFn) -> list[bytes]:
    """Lines of one form but for what hypothesis finds to change in their texts."""
    texts = COMMON | st.sampled_from(['"}', '{"id":"', "\x7f0", "{", "}]", ":", "\\", ""])
    ids = st.text('ab"\\\x7fé:{', max_size=4)
    beside = draw(st.dictionaries(NAMES, NESTED | COMMON | st.integers(0, 9), max_size=2))
    names = draw(st.permutations(["id", "text", "title", *beside]))
    writer = draw(WRITERS)
    changing = draw(st.sets(st.sampled_from(list(beside) or ["id"])))
    made = []
    for number in range(draw(st.integers(1, 5))):
        row: dict[str, Any] = {**beside, "id": f"{number}{draw(ids)}"}
        row |= {"text": draw(texts), "title": draw(texts)}
        row |= {
            name: draw(NESTED | texts | st.integers(0, 99)) for name in changing & beside.keys()
        }
        made.append(writer({name: row[name] for name in names}))
    return made


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=200)
@given(
    made=st.lists(lines().map(lambda line: [line]) | lines_alike() | lines_alike(), max_size=4),
    ending=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    last=st.booleans(),
    long_bytes=st.sampled_from([0, 3, 64]),
    block_bytes=st.sampled_from([1, 60, 1 << 20]),
)
def test_rows_are_the_same_as_read_line_by_line(
    tmp_path: Path,
    made: list[list[bytes]],
    ending: bytes,
    last: bool,
    long_bytes: int,
    block_bytes: int,
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(ending.join([orjson.dumps(FIRST), *chain(*made)]) + ending * last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regular_rows, "LONG_BYTES", long_bytes)
        patch.setattr(line_blocks, "BLOCK_BYTES", block_bytes)
        found = read(path)
        patch.setattr(readers, "read_lines", line_by_line)
        assert found == read(path)


NESTED_ID = '{"meta":{"id":"0"},"id":"1","text":"a","title":"b"}'
TWO_TEXTS = '{"text":"x","id":"1","text":"a","title":"b"}'
NUMBERS = '{"id":1,"n":1.5,"ok":true,"text":"a","title":"b","list":[1,"-1",{"1":null}]}'
WITH_CR = '{"id":"1","text":"a","title":"b"}\r'


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, '{"id":"2","text":"c","title":"d"}'),
        (None, '{"id":"2","title":"c","text":"d"}'),
        (None, '{"ID":"2","text":"c","title":"d"}'),
        (None, '{"id":"2","text":"c";"title":"d"}'),
        (None, '{"id":"2","text":"c","title":"d"]'),
        (None, '["id":"2","text":"c","title":"d"}'),
        (None, ' {"id":"2","text":"c","title":"d"}'),
        (None, '{"id":"2","text":"c","title":"d"} '),
        (None, '{"id":"2","text":"c","title":"d"}\t'),
        (None, '{"id":"2","text":"c","title":"d"}\r'),
        (None, '{"id":"2","text":"c","title":"d"'),
        (None, '{"id":"2","text":"c","title":"d","n":1}'),
        (None, '{"id":"2","text":"c","title":"\t"}'),
        (None, '{"id":"","text":"c","title":"d"}'),
        (None, r'{"id":"\"","text":"c","title":"d"}'),
        (None, r'{"id":"\n","text":"c","title":"d"}'),
        (None, r'{"id":"2\u00e9","text":"c","title":"d"}'),
        (None, r'{"id":"2","text":"\u00e9","title":"d"}'),
        (None, r'{"id":"2","text":"\/","title":"d"}'),
        (None, r'{"id":"2","text":"\x","title":"d"}'),
        (None, r'{"id":"2","text":"c","title":"\"}'),
        (None, r'{"id":"2","text":"c\"","title":"d\\"}'),
        (None, '{"id":2,"text":"c","title":"d"}'),
        (NESTED_ID, NESTED_ID.replace("1", "2").replace("0", "3")),
        ('{"id":"1","meta":{"id":"0","text":"c"},"text":"a","title":"b"}',) * 2,
        ('{"list":["id","text"],"id":"1","text":"a","title":"b"}',) * 2,
        (TWO_TEXTS, TWO_TEXTS.replace("1", "2").replace("x", "y")),
        (r'{"te\u0078t":"a","id":"1","title":"b"}', r'{"te\u0078t":"b","id":"2","title":"b"}'),
        *(
            (NUMBERS, NUMBERS.replace('"id":1', f'"id":{other}'))
            for other in ["2", "0", "02", "-2", "2.5", "1e5", "9" * 18, "9" * 19, "", "null", "2 2"]
        ),
        *(
            (NUMBERS, NUMBERS.replace("1.5", other))
            for other in ["2", "-0.25", "2.", ".5", "02", "1e5", "9" * 40, "NaN", "tru", "--1", ""]
        ),
        (NUMBERS, NUMBERS.replace("true", "null").replace("[1", "[false").replace("-1", "other")),
        (NUMBERS, NUMBERS.replace('"1"', '"2"')),
        (NUMBERS, NUMBERS.replace('"n"', '"id"')),
        (NUMBERS, NUMBERS.replace('"a"', "2")),
        (WITH_CR, WITH_CR.replace("1", "2")),
        (WITH_CR, WITH_CR.replace("1", "2").removesuffix("\r")),
        (WITH_CR, WITH_CR.replace("1", "2") + "\r"),
        (WITH_CR, WITH_CR.replace("1", "2") + " "),
        (WITH_CR, WITH_CR.replace("1", "2") + "x"),
        ('{"id":"1","id":7,"text":"a","title":"b"}', '{"id":"2","id":7,"text":"a","title":"b"}'),
    ],
)
@pytest.mark.parametrize("long_bytes", [0, 64])
def test_a_line_after_another_is_read_as_by_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str | None,
    second: str,
    long_bytes: int,
) -> None:
    path = tmp_path / "in.jsonl"
    former = first or '{"id":"1","text":"a","title":"b"}'
    last = '{"id":"last","text":"e","title":"f"}'
    path.write_text("\n".join([former, second, last, ""]), newline="")
    monkeypatch.setattr(regular_rows, "LONG_BYTES", long_bytes)
    found = read(path)
    monkeypatch.setattr(readers, "read_lines", line_by_line)
    assert found == read(path)


@pytest.mark.parametrize("end", ["", "\r"])
def test_lines_of_a_form_are_not_parsed(tmp_path: Path, end: str) -> None:
    """Nested cells beside them may differ in their texts, too."""
    made = [
        b'{"id":%d, "tags": ["a%d", {"b": "c"}], "n%d": %d, "title":"%d", "text": "\\"%d"}%b\n'
        % (n, n, 7, n, n, n, end.encode())
        for n in range(3)
    ]
    [block] = line_blocks.read_blocks(io.BytesIO(b"".join(made)), None)
    form = form_of(block, 0, 0, WANTED)
    assert form is not None
    lines: list[Line] = []
    assert form.follow(block, 0, 0, block.size, lines) == (len(block.kinds), block.size)
    assert [row_id for row_id, *_ in lines] == ["0", "1", "2"]
    texts = [bytes(block.data[start:end]) for _, start, end, _ in lines]
    assert texts == [line.rstrip() for line in made]
    for number, (line, text) in enumerate(zip(lines, texts, strict=True)):
        start, end_, title, after = line[-1]
        assert (text[start:end_], text[title:after]) == (b'\\"%d' % number, b"%d" % number)


@pytest.mark.parametrize(
    ("line", "common"),
    [
        (b'{"id":"1","text":"short","title":""}', True),
        (b'{"title": "first", "text": "%b", "id": "1"}' % LONG.encode(), True),
        (b'{"id":"1","text":"%b","title":"%b"}\r' % (LONG.encode(), LONG.encode()), True),
        (rb'{"id":"1","text":"\"\\\\\"%b\\","title":"a\nb"}' % LONG.encode(), True),
        (rb'{"id":"1","text":"caf\u00e9 %b","title":"b"}' % LONG.encode(), True),
        (rb'{"id":"1","text":"%b","title":"","note":"\u00e9"}' % LONG.encode(), True),
        (b'{"id":"1","n":1.50,"text":"%b","title":"","nothing":null}' % LONG.encode(), True),
        (b'{"id":"1","list":[1,[]],"text":"","title":""}', True),
        (b'{"id":12,"text":"","title":""}', True),
        (b'{"id":"1","text":"a","title":"b","meta":{"text":"c"}}', True),
        (b'{"meta":{"text":"c"},"id":"1","text":"a","title":"b"}', False),
        (b'{"id":"1","text":"a","title":"b","list":["%b"]}' % LONG.encode(), False),
        (b'{"id":1.5,"text":"","title":""}', False),
        (b'{"id":"1","text":7,"title":""}', False),
        (b'{"id":"1","text":"a","text":"b","title":""}', False),
        (rb'{"id":"1","text":"\ud800 %b","title":"b"}' % LONG.encode(), False),
        (b'{"id":"1","text":"\xff%b","title":"b"}' % LONG.encode(), False),
        (b'{"id":"1","text":"\x7f","title":"b"}', False),
        (b'{"id":"1","text":"a","title":"b"', False),
        (b"", False),
    ],
)
def test_a_line_is_common_or_not(line: bytes, common: bool) -> None:
    [found] = regular_rows.read_lines(io.BytesIO(line + b"\n"), None, WANTED)
    assert isinstance(found, Lines) is common
    if isinstance(found, Lines):
        row, text, [places] = (
            orjson.loads(line),
            found.text(0),
            [line[-1] for line in found.lines],
        )
        for column, start, end in zip(COLUMNS, places[::2], places[1::2], strict=True):
            assert text[start - 1 : end + 1] == orjson.dumps(row[column])


@pytest.mark.parametrize("text", [LONG + "é", "é", '"\u2028"\U0001f600'])
def test_a_text_is_written_as_its_request_has_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "in.jsonl"
    rows = [FIRST, {**FIRST, "id": "second", "text": text, "note": "ü", "n": 1.10}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(path)
    assert not isinstance(found, str)
    second = found[1]
    assert (
        second.input
        == b'{"id": "second", "text": %b, "title": "b", "note": "\\u00fc", "n": 1.1}'
        % (orjson.dumps(text))
    )
    assert second.places is not None
