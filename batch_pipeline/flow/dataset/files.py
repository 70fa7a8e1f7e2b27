"""Finding a night's input files: expanding the declared path and naming what is there.

Belongs here: `${VAR}`, `{partition}` and the glob, local or remote; which endings are read; how a
file's change is noticed. Opening a file is in `streams`, reading its rows in `rows`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from fsspec.core import url_to_fs

from batch_pipeline.errors import InputDataError, UsageError

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class Kind(StrEnum):
    """How a file's rows are written down; the value is the file's ending."""

    PARQUET = ".parquet"
    CSV = ".csv"
    JSONL = ".jsonl"
    TXT = ".txt"
    MD = ".md"


_COMPRESSIONS = (".gz", ".zst")
SUPPORTED_ENDINGS = "parquet, csv, jsonl, txt, md; all but parquet also with .gz or .zst"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file.

    `path` is absolute, or a URL; `relative_path` starts after the pattern's last folder without a
    glob character, with `/` between folders; `size` is in bytes; `version` is a text that changes
    whenever the file does.
    """

    path: str
    relative_path: str
    kind: Kind
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of one night, sorted by path."""

    files: tuple[SourceFile, ...]

    @property
    def signature(self) -> str:
        """SHA-256 over every file's path and version: another text means other input."""
        listing = [(file.path, file.relative_path, file.version) for file in self.files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def find_sources(path: str, partition: str, environ: Mapping[str, str]) -> Sources:
    """The files that a declared input path means for one partition.

    `**` stands for any number of folders. What a wildcard would match is skipped where its name
    starts with `.` or `_` (`_SUCCESS`, `.tmp`), unless the pattern spells that character out.
    Raises UsageError for a variable that is not set, and InputDataError where there is no file, a
    folder in place of a file, a file with an ending that is not read, or a folder that is closed.
    """
    pattern = expand_path(path, partition, environ)
    found = _find_remote(pattern) if is_remote(pattern) else _find_local(pattern)
    files = tuple(sorted(found, key=lambda file: file.path))
    if not files:
        _no_file(pattern)
    return Sources(files)


def environ_with(home: str) -> dict[str, str]:
    """What `${VAR}` in a path stands for; `${BATCH_PIPELINE_HOME}` is the home in force."""
    return {**os.environ, "BATCH_PIPELINE_HOME": home}


def expand_path(path: str, partition: str, environ: Mapping[str, str]) -> str:
    """The path with `${VAR}` and `{partition}` filled in.

    Raises UsageError where a variable is unset, or makes the path a relative one: the command line
    and Dagster run in different folders, and would read different files.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not environ.get(name):
            raise UsageError(
                f"input path {path!r} needs the environment variable {name}, which is not set "
                f"or empty. Set {name}, or write the folder into input.path."
            )
        return environ[name]

    expanded = _VARIABLE.sub(value, path).replace("{partition}", partition)
    if not is_remote(expanded) and not Path(expanded).expanduser().is_absolute():
        raise UsageError(
            f"input path {path!r} comes to {expanded!r}, which is relative. Give its variable an "
            "absolute path, or write the folder into input.path."
        )
    return expanded


def _no_file(pattern: str) -> NoReturn:
    raise InputDataError(
        f"no file for this night: nothing matches {pattern}. Check input.path and that the "
        "night's data has arrived; names that start with '.' or '_' are not read."
    )


def is_remote(path: str) -> bool:
    """Whether a path is a URL, opened through fsspec, and not a local path."""
    return "://" in path or "::" in path


def is_plain(file: SourceFile) -> bool:
    """Whether a file holds its rows as they are: it is not compressed in any way."""
    return file.path.lower().endswith(file.kind.value) and file.kind is not Kind.PARQUET


def file_kind(path: str) -> Kind:
    """What a file holds, by its ending; raises InputDataError where that ending is not read."""
    name = path.rpartition("/")[2].lower()
    plain = name
    for compression in _COMPRESSIONS:
        plain = plain.removesuffix(compression)
    for kind in Kind:
        if plain.endswith(kind.value) and (kind is not Kind.PARQUET or plain == name):
            return kind
    raise InputDataError(
        f"{path} is of a kind that is not read. Supported endings: {SUPPORTED_ENDINGS}. "
        "Narrow input.path, for instance to '*.parquet', or move the file elsewhere."
    )


def _split_pattern(pattern: str) -> tuple[str, list[str]]:
    """The fixed folder, and the components from the first one with a glob character on.

    A pattern without any is split before its last component.
    """
    components = pattern.split("/")
    first = next(
        (place for place, component in enumerate(components) if glob.has_magic(component)),
        len(components) - 1,
    )
    return "/".join(components[:first]), [part for part in components[first:] if part]


def _is_shown(name: str, component: str) -> bool:
    """Whether a wildcard component may match this name; see `find_sources`."""
    return name[:1] not in {".", "_"} or component[:1] == name[:1]


def _directory_error(path: str) -> InputDataError:
    return InputDataError(
        f"{path} is a folder. Say which files in it are meant, for instance "
        f"{path.rstrip('/')}/*.parquet"
    )


# --- local files ---------------------------------------------------------------------------------


def _find_local(pattern: str) -> Iterator[SourceFile]:
    absolute = Path(pattern).expanduser().as_posix()
    base, components = _split_pattern(absolute)
    root = Path(base or "/")
    if not glob.has_magic(absolute):
        if Path(absolute).is_dir():
            raise _directory_error(absolute)
        if not os.path.lexists(absolute):
            _no_file(absolute)
    try:
        # The standard glob hides folders that it may not read; a forgotten document is worse than
        # an error, so the walk is our own.
        paths = set(_walk(root, components, frozenset()))
    except OSError as error:
        raise InputDataError(
            f"cannot list the folder {error.filename}: {error.strerror}. "
            "Give this user the right to read it, then run again."
        ) from error
    for path in paths:
        yield _local_file(path, path.relative_to(root).as_posix())


def _walk(folder: Path, components: list[str], above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    component, rest = components[0], components[1:]
    if not glob.has_magic(component):
        path = folder / component
        if not rest and os.path.lexists(path) and not path.is_dir():
            yield path
        elif rest and path.is_dir():
            yield from _walk(path, rest, above)
        return
    if not folder.is_dir():
        return
    if component == "**":
        yield from _walk_any_depth(folder, components, above)
        return
    for entry in os.scandir(folder):
        if not (fnmatchcase(entry.name, component) and _is_shown(entry.name, component)):
            continue
        if rest and entry.is_dir():
            yield from _walk(Path(entry.path), rest, above)
        elif not rest and not entry.is_dir():
            yield Path(entry.path)


def _walk_any_depth(
    folder: Path, components: list[str], above: frozenset[tuple[int, int]]
) -> Iterator[Path]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a symbolic link back to a folder that is being walked
        return
    yield from _walk(folder, components[1:] or ["*"], frozenset())
    for entry in os.scandir(folder):
        if entry.is_dir() and _is_shown(entry.name, "**"):
            yield from _walk(Path(entry.path), components, above | {identity})


def _local_file(path: Path, relative_path: str) -> SourceFile:
    kind = file_kind(path.as_posix())
    try:
        status = path.stat()
    except OSError as error:
        raise InputDataError(
            f"cannot read {path}: {error.strerror}. Restore the file or remove the link to it."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputDataError(f"{path} is not a regular file. Move it out of the input's folder.")
    version = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
    return SourceFile(path.as_posix(), relative_path, kind, status.st_size, version)


# --- remote files --------------------------------------------------------------------------------


def _find_remote(pattern: str) -> Iterator[SourceFile]:
    filesystem, path, entries = _remote_listing(pattern)
    base, components = _split_pattern(path)
    for name, info in entries.items():
        relative_path = name[len(base) :].lstrip("/")
        if info["type"] == "directory" or _is_hidden(relative_path, components):
            continue
        url = filesystem.unstrip_protocol(name)
        version = _remote_version(filesystem, name, info)
        yield SourceFile(url, relative_path, file_kind(url), int(info["size"] or 0), version)


def _remote_listing(pattern: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    try:
        filesystem, path = url_to_fs(pattern)
        # A daemon lives for weeks, and a listing from before the night's data came would be kept.
        filesystem.invalidate_cache()
        if glob.has_magic(path):
            return filesystem, path, filesystem.glob(path, detail=True)
        info = filesystem.info(path)
    except FileNotFoundError:
        _no_file(pattern)
    except ImportError as error:
        raise UsageError(
            f"cannot open {pattern}: {error}. Install the filesystem's package, for instance "
            "batch-pipeline[s3] or batch-pipeline[gcs]."
        ) from error
    except Exception as error:
        # Each backend has exceptions of its own (botocore's derive from none of Python's).
        raise InputDataError(
            f"cannot list {pattern}: {type(error).__name__}: {error}. Check the address, the "
            "credentials and the rights to read it, then run again."
        ) from error
    if info["type"] == "directory":
        raise _directory_error(pattern)
    return filesystem, path, {path: info}


def _is_hidden(relative_path: str, components: list[str]) -> bool:
    """The rule of `_is_shown` for a path whose components fsspec has matched already."""
    return any(
        not any(fnmatchcase(name, part) and _is_shown(name, part) for part in components)
        for name in relative_path.split("/")
        if name[:1] in {".", "_"}
    )


def _remote_version(filesystem: Any, path: str, info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "generation"):
        if info.get(key):
            return f"{info.get('size')}-{info[key]}"
    return str(filesystem.ukey(path))
