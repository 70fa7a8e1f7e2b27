"""The workspace and the organisation that a call belongs to, from its key, and their ids.

Batches and the prompt cache belong to a workspace; the queue, the rate limits and the reports
belong to an organisation, whose workspaces share them. A key names both after an `@`:
`any@WORKSPACE/ORGANISATION`. What it does not name is the default.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from batch_pipeline.simulator.wire import api_key_of, from_alphabet

DEFAULT = "default"
ORGANISATION_HEADER = "anthropic-organization-id"
WORKSPACE_HEADER = "anthropic-workspace-id"

_NAMESPACE = uuid.UUID("6f7d3a52-6c1f-4d0e-9a55-0d6f3b1c2e84")
_IS_WORKSPACE_ID = re.compile(r"wrkspc_\w+").fullmatch
_IS_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
# Keys whose workspace is remembered, so that each is parsed once.
_MOST_KEYS = 1_000


@dataclass(frozen=True)
class Workspace:
    """A workspace of an organisation, by their names.

    Ids are computed from the names, and are the same in every simulator. A name that has the form
    of an id is the id: an identity token is exchanged for a key with the ids that were asked for.
    """

    name: str = DEFAULT
    organisation: str = DEFAULT

    def __str__(self) -> str:
        return f"{self.name}/{self.organisation}"

    @property
    def id(self) -> str:
        if _IS_WORKSPACE_ID(self.name):
            return self.name
        digest = hashlib.blake2b(str(self).encode(), digest_size=22).digest()
        return f"wrkspc_01{from_alphabet(digest)}"

    @property
    def organisation_id(self) -> str:
        if _IS_UUID(self.organisation):
            return self.organisation
        return str(uuid.uuid5(_NAMESPACE, self.organisation))


@lru_cache(maxsize=_MOST_KEYS)
def id_headers(workspace: Workspace) -> tuple[tuple[bytes, bytes], ...]:
    """The headers with the ids of organisation and workspace, as ASGI has them."""
    return (
        (ORGANISATION_HEADER.encode(), workspace.organisation_id.encode()),
        (WORKSPACE_HEADER.encode(), workspace.id.encode()),
    )


@lru_cache(maxsize=_MOST_KEYS)
def workspace_of_key(key: str) -> Workspace:
    name, _, organisation = key.partition("@")[2].partition("/")
    return Workspace(name or DEFAULT, organisation or DEFAULT)


def workspace_of(headers: Mapping[str, str]) -> Workspace:
    """The workspace of the key that a call was made with."""
    return workspace_of_key(api_key_of(headers))
