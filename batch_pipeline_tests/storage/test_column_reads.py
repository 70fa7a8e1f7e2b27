"""Files of a store as DuckDB reads them."""

from __future__ import annotations

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from batch_pipeline.storage.column_reads import ColumnReads
from batch_pipeline.storage.files import Files
from batch_pipeline.storage.remote import PatientFileSystem
from batch_pipeline_tests.stores import FaultProxy, new_bucket


def _table(rows: int) -> pa.Table:
    """Rows whose texts are most of their file."""
    texts = [os.urandom(1000).hex() for _ in range(rows)]
    units = [os.urandom(16) for _ in range(rows)]
    return pa.table({"ordinal": range(rows), "text": texts, "unit": units})


class _Yielding(io.FileIO):
    """A file whose reader is interrupted wherever it may be."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = super().seek(offset, whence)
        time.sleep(0.0005)
        return place


class _YieldingStore(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    protocol = "yielding"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("yielding://")

    def open(self, path: str, _mode: str = "rb", **_options: Any) -> Any:
        file = _Yielding(self._strip_protocol(path))
        setattr(file, "size", os.fstat(file.fileno()).st_size)  # noqa: B010
        return file


def test_threads_that_share_a_file_read_what_they_asked_for(tmp_path: Path) -> None:
    table = _table(2000)
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=100, compression="zstd")
    store = PatientFileSystem(_YieldingStore(), "yielding://home")
    with duckdb.connect(config={"threads": 4}) as connection:
        connection.register_filesystem(ColumnReads(store))
        rows = connection.read_parquet([f"yielding://{tmp_path}/one.parquet"])
        read = rows.project("ordinal, unit").order("ordinal").to_arrow_table()
    assert read.column("unit").to_pylist() == table.column("unit").to_pylist()


def test_each_thread_has_its_own_place_in_a_file(tmp_path: Path) -> None:
    content = bytes(range(256))
    (tmp_path / "file").write_bytes(content)
    store = PatientFileSystem(_YieldingStore(), "yielding://home")
    file = ColumnReads(store).open(f"yielding://{tmp_path}/file")
    with ThreadPoolExecutor(1) as other:
        file.seek(10)
        other.submit(file.seek, 100).result()
        assert file.read(4) == content[10:14]
        assert other.submit(file.read, 4).result() == content[100:104]
        assert file.read(4) == content[14:18]


def test_requests_are_few_and_of_what_is_read(proxy: FaultProxy, tmp_path: Path) -> None:
    files = Files(f"s3://{new_bucket(proxy.url)}/home")
    names = ["a/1.parquet", "a/2.parquet"]
    for name in names:
        pq.write_table(_table(3000), tmp_path / "file.parquet", row_group_size=1500)
        files.write(name, (tmp_path / "file.parquet").read_bytes())
    proxy.bytes_read = 0
    with duckdb.connect() as connection:
        connection.register_filesystem(ColumnReads(files.filesystem))
        with pytest.raises(duckdb.Error, match=r"none\.parquet"):
            connection.read_parquet(files.urls(["a/none.parquet"]))
        proxy.requests.clear()
        connection.read_parquet(files.urls(names), union_by_name=True).create_view("rows")
        for _ in range(3):
            [(units,)] = connection.sql("SELECT count(DISTINCT unit) FROM rows").fetchall()
            assert units == 6000
    assert proxy.requests["HEAD"] == 2
    assert proxy.requests["GET"] <= 2 * 3
    assert proxy.bytes_read < 2 * 3000 * 100
