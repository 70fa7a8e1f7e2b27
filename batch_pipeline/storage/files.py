"""Files under the home: written whole or not at all, on a local disk or in an object store.

Belongs here: how a file becomes durable, how it is found and opened; not what is in it. Paths are
relative to the home, with `/`: the ledger stores them, so that a home can be moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from batch_pipeline.errors import UsageError
from batch_pipeline.safe_text import get_logger, redacted
from batch_pipeline.storage import patient_filesystem, staging
from batch_pipeline.storage.durable import (
    close_to_others,
    flush,
    make_file,
    make_folder,
    shared_with_group,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

log = get_logger(__name__)

STAGING = ".staging"
# Longer than any upload or download lasts: older files were left by a process that died.
STAGING_MAX_AGE_SECONDS = 48 * 3600


class Files:
    """The home folder, a local path or a filesystem URL."""

    def __init__(self, home: str) -> None:
        self.home = home.rstrip("/") if "://" in home else str(Path(home).absolute())
        self.is_remote = "://" in home
        self._fs: Any = None
        if self.is_remote:
            try:
                self._fs, self._root = patient_filesystem.opened(
                    self.home, f"The home {redacted(self.home)}"
                )
            except (ImportError, ValueError) as error:
                raise UsageError(
                    f"BATCH_PIPELINE_HOME is {self.home}, which cannot be used: {error}. For s3:// "
                    "and gs:// install batch-pipeline[s3] or batch-pipeline[gcs]."
                ) from error
        else:
            self._root = self.home
        self._shared = 0 if self.is_remote else shared_with_group(Path(self._root))

    def uri(self, path: str) -> str:
        """The absolute path or URL of a path, for people and other programs; without secrets."""
        return redacted(f"{self.home}/{path}") if self.is_remote else str(Path(self._root, path))

    def warn_if_open(self) -> None:
        """Log once in a process that other users have access to a local home that exists."""
        if not self.is_remote:
            _warn_if_open(self.home, shared=bool(self._shared))

    # Writing

    @contextmanager
    def staged(self, suffix: str = "") -> Iterator[Path]:
        """A local path to write to; removed at the end of the block unless it was published."""
        try:
            folder = self._staging_folder()
        except OSError as error:
            raise UsageError(
                f"The home {self.home} cannot be written: {error}. Set BATCH_PIPELINE_HOME to a "
                "folder that this user may write."
            ) from error
        path = folder / f"{os.getpid()}-{uuid.uuid4().hex}{suffix}"
        try:
            yield path
        finally:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _staging_folder(self) -> Path:
        """A folder that is closed to other users: libraries make files with modes of their own."""
        if self.is_remote:
            return staging.folder()
        folder = Path(self._root, STAGING)
        make_folder(folder, self._shared)
        if folder.stat().st_mode & 0o007:
            with contextlib.suppress(PermissionError):  # another user's, in a shared home
                close_to_others(folder, self._shared)
        return folder

    def make_durable(self, staged: Path) -> None:
        """Flush a staged file, or each file of a staged folder, to the disk.

        Not part of `publish`, because it takes long and `publish` runs while the ledger is locked.
        """
        for path in [staged, *staged.rglob("*")] if staged.is_dir() else [staged]:
            flush(path)

    def publish(self, staged: Path, path: str) -> None:
        """Give a staged file, or a staged folder of files, its name; replaces a file of that name.

        A folder of that name stays as it is: the name of a folder follows from its content.
        """
        if self.is_remote:
            target = f"{self._root}/{path}"
            if staged.is_dir():
                for file in sorted(staged.iterdir()):
                    self._fs.put_file(str(file), f"{target}/{file.name}")
            else:
                self._fs.put_file(str(staged), target)
            return
        local = Path(self._root, path)
        make_folder(local.parent, self._shared)
        for made in [staged, *staged.rglob("*")] if staged.is_dir() else [staged]:
            close_to_others(made, self._shared)
        try:
            staged.replace(local)
        except OSError as error:
            # Another process has published the same folder, perhaps at this very moment.
            if not (staged.is_dir() and error.errno in (errno.ENOTEMPTY, errno.EEXIST)):
                raise
        flush(local.parent)

    def write(self, path: str, data: bytes) -> None:
        """Write a small file at once."""
        with self.staged() as staged:
            staged.write_bytes(data)
            self.make_durable(staged)
            self.publish(staged, path)

    def make_file(self, path: str) -> Path:
        """Make an empty file in a local home, which is written bit by bit; returns where it is."""
        local = Path(self._root, path)
        make_folder(local.parent, self._shared)
        make_file(local, self._shared)
        flush(local.parent)
        return local

    def move(self, path: str, target: str) -> bool:
        """Give a file of a remote home another name; False: it is lost.

        To be repeated after a crash, in which case the file may have its name already.
        """
        fs, source, goal = self._fs, f"{self._root}/{path}", f"{self._root}/{target}"
        if fs.exists(source):
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                fs.mv(source, goal)
                return True
        return bool(fs.exists(goal))

    def copy(self, path: str, target: str) -> None:
        """Give a file of a remote home a second name; inside the store, hence without a download.

        Raises FileNotFoundError where there is no such file.
        """
        self._fs.cp_file(f"{self._root}/{path}", f"{self._root}/{target}")

    def link(self, path: str, staged: Path) -> None:
        """Give a file of a local home a second name, in a staging folder."""
        local = Path(self._root, path)
        try:
            staged.hardlink_to(local)
        except FileNotFoundError:
            raise
        except OSError:  # a filesystem without such links
            shutil.copyfile(local, staged)

    def remove(self, path: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""
        if self.is_remote:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(f"{self._root}/{path}", recursive=True)
            return
        local = Path(self._root, path)
        if local.is_dir():
            shutil.rmtree(local)
        elif local.exists():
            local.unlink(missing_ok=True)
        else:
            return
        # After a power cut it must not be there again beside the file that took its place.
        flush(local.parent)

    def sweep(self) -> None:
        """Remove what dead processes left in the staging folder, of a remote home in this
        machine's."""
        if self.is_remote:
            staging.sweep()
            return
        folder = Path(self._root, STAGING)
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > STAGING_MAX_AGE_SECONDS:
                # Another user of a shared home removes what is theirs.
                with contextlib.suppress(PermissionError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    # Reading

    def open(self, path: str, *, ahead: bool = True) -> BinaryIO:
        """Open a file for reading bytes; without `ahead`, of a remote one no more than is asked for
        is read at a time."""
        if self.is_remote:
            options = {} if ahead else {"cache_type": "none"}
            return cast("BinaryIO", self._fs.open(f"{self._root}/{path}", "rb", **options))
        return Path(self._root, path).open("rb")

    @contextmanager
    def open_native(self, path: str) -> Iterator[str | BinaryIO]:
        """The local path of a file, which a library reads faster by itself than through a Python
        file object; the open file where it is remote."""
        if not self.is_remote:
            yield str(Path(self._root, path))
            return
        with self.open(path) as file:
            yield file

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file, None where there is none."""
        try:
            with self.open(path) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def decompressed(self, path: str, size: int = 1 << 20) -> Generator[bytes]:
        """The content of a zstd file, at most `size` bytes at a time.

        Raises ZstdError at a frame that is damaged; one that was cut off ends without an error.
        """
        import zstandard  # noqa: PLC0415  # as below

        with self.open(path) as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            while block := reader.read(size):
                yield block

    def glob(self, pattern: str) -> list[str]:
        """The paths of the files that a pattern with `*` in any of its parts matches, sorted."""
        if self.is_remote:
            found = self._fs.glob(f"{self._root}/{pattern}")
            return sorted(str(path).removeprefix(f"{self._root}/") for path in found)
        root = Path(self._root)
        return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))

    def list(self, folder: str, suffix: str) -> list[str]:
        """The paths of the files directly in a folder that end with `suffix`, sorted."""
        if self.is_remote:
            names = [name.rpartition("/")[2] for name in self._fs.entries(f"{self._root}/{folder}")]
            return sorted(f"{folder}/{name}" for name in names if name.endswith(suffix))
        return sorted(f"{folder}/{p.name}" for p in Path(self._root, folder).glob(f"*{suffix}"))

    def size(self, folder: str) -> int:
        """Bytes of all files in a folder and below it; 0 where there is none."""
        if self.is_remote:
            found = self._fs.exists(f"{self._root}/{folder}")
            return int(self._fs.du(f"{self._root}/{folder}")) if found else 0
        local = Path(self._root, folder)
        return sum(path.stat().st_size for path in local.rglob("*") if path.is_file())

    def entries(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Name, bytes and time of the last change of each file directly in a folder, which may have
        a million of them; nothing where there is no such folder."""
        if not self.is_remote:
            with (
                contextlib.suppress(FileNotFoundError),
                os.scandir(Path(self._root, folder)) as all_,
            ):
                for entry in all_:
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            status = entry.stat()
                            yield entry.name, status.st_size, status.st_mtime
            return
        if self._fs.exists(f"{self._root}/{folder}"):
            for info in self._fs.ls(f"{self._root}/{folder}", detail=True):
                if info["type"] == "file":
                    name = str(info["name"]).rpartition("/")[2]
                    yield name, int(info["size"] or 0), _modified(info)

    def renew(self, path: str, most_age: float) -> bool:
        """Whether a file is there; a local one counts as written now. Of a remote home, whose times
        only another upload changes, one that is older than this many seconds counts as missing."""
        if not self.is_remote:
            try:
                os.utime(Path(self._root, path))
            except FileNotFoundError:
                return False
            return True
        try:
            info = self._fs.info(f"{self._root}/{path}")
        except FileNotFoundError:
            return False
        return time.time() - _modified(info) < most_age

    def read_columns(
        self, path: str, columns: Sequence[str], schema: pa.Schema | None = None
    ) -> pa.Table:
        """Columns of a Parquet file, in this order, read by one thread: for small columns.

        With a `schema` a column that the file lacks is NULL.
        """
        import pyarrow as pa  # noqa: PLC0415  # as below
        import pyarrow.parquet as pq  # noqa: PLC0415

        with self.open_native(path) as file, pq.ParquetFile(file) as parquet:
            table = parquet.read(columns=list(columns), use_threads=False)
        for name in columns:
            if schema is not None and name not in table.column_names:
                nulls = pa.nulls(table.num_rows, schema.field(name).type)
                table = table.append_column(schema.field(name), nulls)
        return table.select(columns)

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of a remote home."""
        return self._fs

    def urls(self, paths: Sequence[str]) -> Sequence[str]:
        """Where a remote home's files are, for programs that are given its `filesystem`."""
        protocol = self.home.partition("://")[0]
        return [f"{protocol}://{self._root}/{path}" for path in paths]

    def opened_as(self, path: str) -> tuple[str, str | None]:
        """What opens a file: its name, and the URL of the filesystem that has it (None: local)."""
        if not self.is_remote:
            return str(Path(self._root, path)), None
        return f"{self._root}/{path}", f"{self.home}/{path}"

    def dataset(self, paths: Sequence[str], schema: pa.Schema | None = None) -> ds.Dataset:
        """Parquet files as one Arrow dataset, in the order given; at least one path.

        With a `schema` a column that a file lacks is NULL; else the first file's columns count.
        """
        import pyarrow.dataset as ds  # noqa: PLC0415  # `status` does without Arrow

        if not self.is_remote:
            local = [str(Path(self._root, p)) for p in paths]
            return ds.dataset(local, schema=schema, format="parquet")
        from pyarrow.fs import FSSpecHandler, PyFileSystem  # noqa: PLC0415

        filesystem = PyFileSystem(FSSpecHandler(self._fs))
        names = [f"{self._root}/{p}" for p in paths]
        return ds.dataset(names, schema=schema, format="parquet", filesystem=filesystem)


def _modified(info: Mapping[str, Any]) -> float:
    """When a remote file was written, in seconds; now where its filesystem does not tell."""
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        found = info.get(key)
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return found.timestamp()
        if found:
            return float(found)
    return time.time()


@lru_cache(maxsize=16)
def _warn_if_open(home: str, *, shared: bool) -> None:
    try:
        mode = Path(home).stat().st_mode
    except OSError:
        return
    if mode & 0o077:
        log.warning(
            "other users of this machine have access to the home %s (mode %04o), which stays so; "
            "new files in it are for %s. To close it: chmod -R go-rwx",
            home,
            mode & 0o7777,
            "its group too" if shared else "this user alone",
        )
