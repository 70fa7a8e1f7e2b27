"""The accounts of accounts.yaml, read and checked, with every problem named by file, line and key.

Secrets are names of variables, never values. What follows from the accounts, and the one without a
file, is in `jobs.accounts.accounts_file`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from batch_pipeline import safe_text
from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty, Usd, base_dir_of
from batch_pipeline.jobs.yaml_files.problems import explain, problem_line, read_document
from batch_pipeline.jobs.yaml_files.yaml_lines import KeyPath, YamlDocument
from batch_pipeline.settings import ACCOUNT_NAME, SIMULATOR_ACCOUNT

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# Keys and admin keys of the API, and identity tokens. Names of 40 characters with a digit in them
# are rare, and a key in a file that is committed cannot be taken back.
_KEY = re.compile(r"sk-ant-|eyJ[A-Za-z0-9_-]{10}|(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_-]{40,}$")
NOT_SHOWN = "looks like a key; it is not shown. Write the name of the variable that holds it"
# Headers that every request would carry, whichever account it is for.
_CREDENTIAL_HEADERS = ("authorization", "x-api-key")
HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
SDK_VARIABLES = "ANTHROPIC_API_KEY, or what else the SDK reads"


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError(
            "must be the name of an environment variable in capitals, like RESEARCH_A_KEY, not "
            f"{value!r}"
        )
    return value


def _name(value: str) -> str:
    if not re.fullmatch(ACCOUNT_NAME, value):
        raise ValueError(f"must be letters, digits, - and _, not {value!r}")
    if value.lower() == SIMULATOR_ACCOUNT:
        raise ValueError(f"is {value!r}, which the simulator keeps for itself; choose another name")
    return value


def _address(value: str) -> str:
    try:
        url = urlsplit(value)
        understood = url.scheme in ("http", "https") and bool(url.hostname)
        secret = url.username is not None or url.password is not None or bool(url.query)
    except ValueError:
        understood = secret = False
    if secret:
        raise ValueError("holds a user name, password or token; write the bare address")
    if not understood:
        raise ValueError(f"must be an address like https://gateway.example.com, not {value!r}")
    return value


def _file(value: str, info: ValidationInfo) -> str:
    return str(base_dir_of(info) / value)


Variable = Annotated[NonEmpty, AfterValidator(_variable)]
Name = Annotated[NonEmpty, AfterValidator(_name)]


class FederationSpec(DeclaredModel):
    """Workload identity federation: an identity token of the platform in place of a key."""

    rule_id: NonEmpty
    organisation_id: NonEmpty
    identity_token_file: Annotated[NonEmpty, AfterValidator(_file)] | None = None
    identity_token_env: Variable | None = None
    service_account_id: NonEmpty | None = None
    workspace_id: NonEmpty | None = None

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if (self.identity_token_file is None) == (self.identity_token_env is None):
            raise ValueError("needs one of identity_token_file and identity_token_env")
        return self


class AccountSpec(DeclaredModel):
    """One account of accounts.yaml. At most one of `key_env`, `profile` and `federation` is given;
    without one, the credential is the one that the SDK finds in its own variables.

    `owner` and `organisation` are the account's own name unless given; `max_queued_requests` is the
    queue limit of its organisation.
    """

    key_env: Variable | None = None
    profile: NonEmpty | None = None
    federation: FederationSpec | None = None
    base_url: Annotated[NonEmpty, AfterValidator(_address)] | None = None
    owner: Name | None = None
    organisation: Name | None = None
    workspace: Name | None = None
    max_queued_requests: Annotated[int, Field(ge=1)] | None = None
    max_usd_per_month: Usd | None = None
    admin_key_env: Variable | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        given = [name for name in ("key_env", "profile", "federation") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; give one of them")
        return self

    @property
    def credential(self) -> str:
        """Where its credential comes from, for messages and comparisons."""
        if self.key_env is not None:
            return self.key_env
        if self.profile is not None:
            return f"profile {self.profile}"
        if self.federation is not None:
            found = self.federation
            of = "" if found.workspace_id is None else f" of workspace {found.workspace_id}"
            return f"federation rule {found.rule_id}{of}"
        return SDK_VARIABLES

    @property
    def secret_variables(self) -> set[str]:
        """Names of the variables whose values must not be shown."""
        token = None if self.federation is None else self.federation.identity_token_env
        return {name for name in (self.key_env, token, self.admin_key_env) if name is not None}


def read(file: Path) -> Mapping[str, AccountSpec]:
    """The accounts that a file declares, by name, in its order; DeclarationError names every
    problem with its line."""
    try:
        document, problems = read_document(file)
    except DeclarationError as error:
        # The parser quotes what it could not read.
        raise DeclarationError(re.sub(r"sk-ant-[\w-]+", safe_text.HIDDEN, str(error))) from None
    shown_by_mistake = [(path, NOT_SHOWN) for path in _keys_in(document.value)]
    if shown_by_mistake:
        # No other message may quote them.
        raise DeclarationError("\n".join(_lines(file, document, shown_by_mistake)))
    if not isinstance(document.value, dict) or not document.value:
        raise DeclarationError(
            f"{file}:1: declares no account; write for each its name and where its key is, like "
            "`research_a: {key_env: RESEARCH_A_KEY}`"
        )
    found: dict[str, AccountSpec] = {}
    wrong: list[tuple[KeyPath, str]] = []
    for name, declared in document.value.items():
        try:
            _name(name) if isinstance(name, str) else _not_text(name)
        except ValueError as error:
            wrong.append(((name,), f"the name of an account {error}"))
            continue
        try:
            found[name] = AccountSpec.model_validate(
                {} if declared is None else declared, context={"base_dir": file.absolute().parent}
            )
        except ValidationError as error:
            values = declared if isinstance(declared, dict) else {}
            explained = [explain(details, values, AccountSpec) for details in error.errors()]
            wrong += [((name, *path), message) for path, message in explained]
    wrong += _between(found)
    problems += _lines(file, document, sorted(wrong, key=lambda each: document.line_of(each[0])))
    if problems:
        raise DeclarationError("\n".join(problems))
    safe_text.keep_secret(name for spec in found.values() for name in spec.secret_variables)
    return found


def _lines(file: Path, document: YamlDocument, found: Iterable[tuple[KeyPath, str]]) -> list[str]:
    return [problem_line(file, document.line_of, path, message) for path, message in found]


def _not_text(name: object) -> None:
    raise ValueError(f"must be text, not {name!r}; put it into quotes")


def _keys_in(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of values, and of keys, that look like a key of the API."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and _KEY.match(key):
                yield path
            else:
                yield from _keys_in(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys_in(inner, (*path, index))
    elif isinstance(value, str) and _KEY.match(value) and not _VARIABLE.fullmatch(value):
        yield path


def _between(found: Mapping[str, AccountSpec]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong between the accounts of one file."""
    yield from _of_one_credential(found)
    yield from _of_one_workspace(found)
    yield from _of_one_queue(found)
    for name, spec in found.items():
        owner = found.get(spec.owner or name)
        if owner is not None and owner.owner not in (None, spec.owner or name):
            message = (
                f"is {spec.owner}, an account that has the owner {owner.owner} itself; give both "
                "the same owner"
            )
            yield (name, "owner"), message
    headers = os.environ.get(HEADERS, "").split("\n")
    for header in {line.partition(":")[0].strip().lower() for line in headers}:
        if header in _CREDENTIAL_HEADERS:
            message = (
                f"{HEADERS} holds the header {header}, which would be the credential of every "
                "account; remove it there"
            )
            yield (), message


def _of_one_credential(found: Mapping[str, AccountSpec]) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[str, str] = {}
    for name, spec in found.items():
        first = seen.setdefault(spec.credential, name)
        if first != name and spec.credential == SDK_VARIABLES:
            message = (
                "needs a key_env, a profile or a federation: without one its credential is in "
                f"{SDK_VARIABLES}, and that is the one of account {first}"
            )
            yield (name,), message
        elif first != name:
            yield (name,), f"has the credential of account {first} ({spec.credential})"


def _of_one_workspace(found: Mapping[str, AccountSpec]) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[tuple[str, str | None], str] = {}
    for name, spec in found.items():
        organisation = spec.organisation or name
        first = seen.setdefault((organisation, spec.workspace), name)
        if first != name:
            workspace = "default workspace" if spec.workspace is None else spec.workspace
            message = (
                f"is the {workspace} of organisation {organisation}, as account {first} is; an "
                "account is one workspace, and its key may be replaced without another account"
            )
            yield (name, "workspace"), message


def _of_one_queue(found: Mapping[str, AccountSpec]) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[str, tuple[str, int]] = {}
    for name, spec in found.items():
        limit, organisation = spec.max_queued_requests, spec.organisation or name
        if limit is None:
            continue
        first, before = seen.setdefault(organisation, (name, limit))
        if before != limit:
            message = (
                f"is {limit}, and {before} for account {first}: both are of organisation "
                f"{organisation}, which has one queue; give the same number, or one alone"
            )
            yield (name, "max_queued_requests"), message
