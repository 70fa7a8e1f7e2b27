"""Finding a night's input files: expanding the declared path, and listing what it matches.

Belongs here: `${VAR}`, `{partition}` and the glob, local or remote; what is left out of what a
pattern matches; which filesystem a URL means.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from fsspec.registry import available_protocols
from fsspec.utils import glob_translate

from batch_pipeline.errors import InputDataError, StorageError, UsageError
from batch_pipeline.flow.dataset.reading.files import (
    ONE_ROW,
    PLAIN_CSV,
    SourceFile,
    Sources,
    file_kind,
    kind_of,
    notice_of,
)
from batch_pipeline.flow.dataset.reading.row_json import escaped
from batch_pipeline.jobs.input.inputs import CsvSpec
from batch_pipeline.safe_text import redacted
from batch_pipeline.storage.patient_filesystem import PatientFileSystem, opened

# Protocols whose URLs name a server, and not a bucket.
_SERVERS = {"ftp", "ftps", "http", "https", "sftp", "ssh"}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def find_sources(
    path: str, partition: str, environ: Mapping[str, str], csv: CsvSpec = PLAIN_CSV
) -> Sources:
    """The files that a declared input path means for one partition.

    `**` stands for any number of folders. A component with brackets that is the name of a file or
    folder means that one. What a wildcard would match is left out where its name starts with `.`
    (`.tmp`), and data files also where it starts with `_` (`_SUCCESS`, `_delta_log/`), unless the
    pattern spells that character out; documents are read (`_index.md`, `_posts/`). Raises
    UsageError for a variable that is not set, and InputDataError where there is no file, a folder
    in place of a file, a file with an ending that is not read, or a folder that is closed.
    """
    pattern = expand_path(path, partition, environ)
    search = _Search(csv)
    find = _find_remote if is_remote(pattern) else _find_local
    find(pattern, search)
    files = sorted(search.files.values(), key=lambda file: file.path)
    left_out = tuple(sorted(search.left_out))
    if not files:
        _no_file(pattern, left_out)
    return Sources(tuple(files), left_out)


@dataclass
class _Search:
    """What was found so far: the files by the name that opens them, and what is left out."""

    csv: CsvSpec
    files: dict[str, SourceFile] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def leave_out(self, path: str, hidden: str, size: int) -> bool:
        """Whether a file is left out for the first character of a name in its path.

        An empty one (`_SUCCESS`) is a marker: nothing is lost, and it is not named.
        """
        left_out = hidden == "." or (hidden == "_" and kind_of(path) not in ONE_ROW)
        if left_out and size:
            self.left_out.add(path)
        return left_out


def environ_with(home: str) -> dict[str, str]:
    """What `${VAR}` in a path stands for; `${BATCH_PIPELINE_HOME}` is the home in force."""
    return {**os.environ, "BATCH_PIPELINE_HOME": home}


def expand_path(
    path: str, partition: str, environ: Mapping[str, str], key: str = "input.path"
) -> str:
    """The path with `${VAR}` and `{partition}` filled in; messages name its key.

    Raises UsageError where a variable is unset, or makes the path a relative one: the command line
    and Dagster run in different folders, and would read different files.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not environ.get(name):
            raise UsageError(
                f"{key} {path!r} needs the environment variable {name}, which is not set "
                f"or empty. Set {name}, or write the folder into {key}."
            )
        return environ[name]

    expanded = _VARIABLE.sub(value, path).replace("{partition}", partition)
    if expanded.startswith("file:///"):
        expanded = expanded.removeprefix("file://")
    if not is_remote(expanded) and not Path(expanded).expanduser().is_absolute():
        raise UsageError(
            f"{key} {path!r} comes to {expanded!r}, which is relative. Give its variable an "
            f"absolute path, or write the folder into {key}."
        )
    return expanded


def _no_file(pattern: str, left_out: Sequence[str] = ()) -> NoReturn:
    found = f" {notice_of(left_out)}." if left_out else ""
    raise InputDataError(
        f"no file for this night: nothing matches {pattern}. Check input.path and that the "
        f"night's data has arrived; names that start with '.' or '_' are not read.{found}"
    )


def is_remote(path: str) -> bool:
    """Whether a path is a URL, opened through fsspec, and not a local path."""
    return "://" in path and not path.startswith(("/", "~"))


Exists = Callable[[str], bool]


def _is_glob(folder: str, component: str, exists: Exists) -> bool:
    """Whether a component is a pattern, and not a name that holds brackets."""
    if not glob.has_magic(component):
        return False
    return "*" in component or "?" in component or not exists(f"{folder}/{component}")


def _split_pattern(pattern: str, exists: Exists) -> tuple[str, list[str]]:
    """The fixed folder, and the components from the first pattern on.

    A path without any pattern is split before its last component.
    """
    components = pattern.split("/")
    first = 0
    while first < len(components) - 1:
        if _is_glob("/".join(components[:first]), components[first], exists):
            break
        first += 1
    return "/".join(components[:first]), [part for part in components[first:] if part]


def _hiding(name: str, component: str) -> str:
    """The first character of a name that hides it from a wildcard; empty where it is shown."""
    return name[0] if name[0] in "._" and component[:1] != name[0] else ""


def _directory_error(path: str) -> InputDataError:
    return InputDataError(
        f"{path} is a folder. Say which files in it are meant, for instance "
        f"{path.rstrip('/')}/*.parquet"
    )


# --- local files ---------------------------------------------------------------------------------


def _find_local(pattern: str, search: _Search) -> None:
    absolute = Path(pattern).expanduser().as_posix()
    base, components = _split_pattern(absolute, os.path.lexists)
    if len(components) == 1 and not _is_glob(base, components[0], os.path.lexists):
        if os.path.isdir(absolute):  # noqa: PTH112  # False, and no error, for too long a name
            raise _directory_error(absolute)
        if not os.path.lexists(absolute):
            _no_file(absolute)
    root = Path(base or "/")
    try:
        # The standard glob hides folders that it may not read; a forgotten document is worse than
        # an error, so the walk is our own.
        for path, hidden in set(_Walk(search).of(root, components)):
            shown = escaped(path.as_posix())
            if not search.leave_out(shown, hidden, path.lstat().st_size):
                relative_path = escaped(path.relative_to(root).as_posix())
                file = _local_file(path, shown, relative_path, search.csv)
                search.files[file.name] = file
    except OSError as error:
        raise InputDataError(
            f"cannot list the folder {error.filename}: {error.strerror}. "
            "Give this user the right to read it, then run again."
        ) from error


@dataclass
class _Walk:
    """The walk through local folders: each matching path, with the character that hides it."""

    search: _Search

    def of(
        self,
        folder: Path,
        components: list[str],
        hidden: str = "",
        above: frozenset[tuple[int, int]] = frozenset(),
        *,
        deep: bool = False,
    ) -> Iterator[tuple[Path, str]]:
        """Paths below a folder; `deep`: a `**` walks the folders in it as well."""
        component, rest = components[0], components[1:]
        if not _is_glob(folder.as_posix(), component, os.path.lexists):
            if os.path.lexists(path := folder / component):
                yield from self._matched(path, rest, hidden, above)
        elif component == "**" and folder.is_dir():
            yield from self._any_depth(folder, components, hidden, above)
        elif folder.is_dir():
            for entry in os.scandir(folder):
                if fnmatchcase(entry.name, component):
                    hides = hidden or _hiding(entry.name, component)
                    yield from self._matched(Path(entry.path), rest, hides, above, deep=deep)

    def _matched(
        self,
        path: Path,
        rest: list[str],
        hidden: str,
        above: frozenset[tuple[int, int]],
        *,
        deep: bool = False,
    ) -> Iterator[tuple[Path, str]]:
        """A path that the components so far match: a file, or a folder that is walked on."""
        if not path.is_dir():
            if not rest:
                yield path, hidden
        elif rest and hidden != ".":
            yield from self.of(path, rest, hidden, above)
        elif not deep:
            self._leave_out(path)

    def _any_depth(
        self, folder: Path, components: list[str], hidden: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[Path, str]]:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a symbolic link back to a folder that is being walked
            return
        yield from self.of(folder, components[1:] or ["*"], hidden, deep=True)
        for entry in os.scandir(folder):
            if not entry.is_dir():
                continue
            hides = hidden or _hiding(entry.name, "**")
            if hides == ".":
                self._leave_out(Path(entry.path))
            else:
                yield from self.of(Path(entry.path), components, hides, above | {identity})

    def _leave_out(self, folder: Path) -> None:
        self.search.left_out.add(f"{escaped(folder.as_posix())}/")


def _local_file(path: Path, shown: str, relative_path: str, csv: CsvSpec) -> SourceFile:
    kind = file_kind(shown)
    try:
        status = path.stat()
    except OSError as error:
        raise InputDataError(
            f"cannot read {shown}: {error.strerror}. Restore the file or remove the link to it."
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputDataError(f"{shown} is not a regular file. Move it out of the input's folder.")
    version = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
    return SourceFile(shown, relative_path, kind, status.st_size, version, path.as_posix(), csv=csv)


# --- remote files --------------------------------------------------------------------------------


def filesystem_of(url: str) -> tuple[PatientFileSystem, str]:
    """The filesystem of a URL, and the path in it. That of a bucket repeats what fails for a while,
    as a home does. A server by its name (`http`, `ftp`) is asked once: one that does not answer is
    more likely a mistake in the URL, which a person waits to be told.

    `::` chains filesystems (`zip://*.md::s3://bucket/all.zip`), but may also be part of a file's
    name (`s3://bucket/Foo::Bar.md`), which fsspec would take for a chain.
    """
    links = url.split("::")
    for number, link in enumerate(links[1:], 1):
        if "://" not in link and link not in available_protocols():
            folder = "::".join(links[:number]).rpartition("/")[0] + "/"
            filesystem, path = _opened(folder)
            return filesystem, f"{path.rstrip('/')}/{url.removeprefix(folder)}"
    return _opened(url)


def _opened(url: str) -> tuple[PatientFileSystem, str]:
    patient = url.partition("://")[0] not in _SERVERS
    return opened(url, f"The input {redacted(url)}", patient=patient)


def _find_remote(pattern: str, search: _Search) -> None:
    try:
        _search_remote(pattern, search)
    except (InputDataError, UsageError, StorageError):
        raise
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


def _search_remote(pattern: str, search: _Search) -> None:
    filesystem, path = filesystem_of(pattern)
    base, components = _split_pattern(path, filesystem.exists)
    if len(components) == 1 and not _is_glob(base, components[0], filesystem.exists):
        found = {path: filesystem.info(path)}
        if found[path]["type"] == "directory":
            raise _directory_error(pattern)
    else:
        found = _matching(filesystem, base, components)
    for name, info in found.items():
        relative_path = name[len(base) :].lstrip("/")
        shown = escaped(filesystem.unstrip_protocol(name))
        size = int(info["size"] or 0)
        if info["type"] == "directory" or name.endswith("/"):
            if "**" not in components[-2:]:
                search.left_out.add(f"{shown.rstrip('/')}/")
        elif not search.leave_out(shown, _hiding_of(relative_path, components), size):
            search.files[name] = SourceFile(
                shown,
                escaped(relative_path),
                file_kind(shown),
                size,
                _remote_version(filesystem, name, info),
                name,
                pattern,
                search.csv,
            )


def _matching(
    filesystem: PatientFileSystem, base: str, components: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """What matches below a folder, with what is known of it.

    Not fsspec's `glob`: it takes a folder that it could not list for an empty one, and the night
    would lack its documents.
    """
    if any("**" in component for component in components):
        path = "/".join([glob.escape(base), *components])
        pattern, below = re.compile(glob_translate(path)), path.endswith("/**")
        return {
            name: info
            for name, info in filesystem.find(base, withdirs=True, detail=True).items()
            if pattern.match(f"{name}/" if below and info["type"] == "directory" else name)
        }
    found: dict[str, Mapping[str, Any]] = {base: {"type": "directory"}}
    for component in components:
        found = {
            name: info
            for folder, about in found.items()
            if about["type"] == "directory"
            for name, info in _entries(filesystem, folder)
            if fnmatchcase(name.rpartition("/")[2], component)
        }
    return found


def _entries(filesystem: PatientFileSystem, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is directly in a folder; nothing where there is no such folder."""
    try:
        listed = filesystem.ls(folder, detail=True)
    except FileNotFoundError:
        return
    for info in listed:
        name = str(info["name"]).rstrip("/")
        if name.rpartition("/")[0] == folder.rstrip("/"):
            yield name, info


def _hiding_of(relative_path: str, components: list[str]) -> str:
    """`_hiding` of a path whose components fsspec has matched already."""
    hiding = [
        name[0]
        for name in relative_path.split("/")
        if name[:1] in {".", "_"}
        and name not in components
        and not any(fnmatchcase(name, part) and not _hiding(name, part) for part in components)
    ]
    return "." if "." in hiding else "".join(hiding[:1])


def _remote_version(filesystem: Any, path: str, info: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "generation"):
        if info.get(key):
            return f"{info.get('size')}-{info[key]}"
    return str(filesystem.ukey(path))
