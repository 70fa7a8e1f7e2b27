"""Paths under the home. The first six are promised to users, the others are internal."""

from __future__ import annotations

# No job's name begins with `_`, and `cp home/*` copies this folder, which a leading dot would hide.
MARK = "_ledger/home.json"
SENT = "_ledger/sent"


def results(job: str, partition: str) -> str:
    return f"{job}/results/partition={partition}"


def typed(job: str, partition: str) -> str:
    return f"{job}/typed/partition={partition}"


def dead_letter(job: str, partition: str) -> str:
    return f"{job}/dead_letter/partition={partition}"


def raw(job: str, partition: str) -> str:
    return f"{job}/raw/partition={partition}"


def raw_realtime(job: str, partition: str) -> str:
    return f"{job}/raw_realtime/partition={partition}"


def report(job: str, partition: str, suffix: str) -> str:
    return f"{job}/reports/{partition}{suffix}"


def snapshots(job: str, partition: str) -> str:
    """A snapshot depends on input and declaration alone, so that owners share its folder."""
    return f"{job}/snapshots/partition={partition}"


def manifests(job: str, partition: str, owner: str) -> str:
    return f"{job}/manifests/{owner}/partition={partition}"


def answers(job: str, partition: str, owner: str) -> str:
    return f"{job}/answers/{owner}/partition={partition}"


# What is read of inputs that several workers share, a folder for each.
READINGS = ".readings"


def reading(token: str) -> str:
    """The folder of an input that is being read, as long as it is."""
    return f"{READINGS}/{token}"


def part_name(number: int) -> str:
    """The name of a part of a snapshot in its folder."""
    return f"part-{number:05d}.parquet"


def parts_in(folder: str, count: int) -> list[str]:
    """The paths of a snapshot's parts in a folder, in their order."""
    return [f"{folder}/{part_name(number)}" for number in range(count)]


def snapshot_facts(folder: str) -> str:
    """What the ledger knows of a snapshot, beside its parts, for a ledger that is lost."""
    return f"{folder}/snapshot.json"


# What is known of a copied input, in its folder.
COPY_FACTS = "source.json"
# Which documents its rows name, a hash in each line.
COPY_DOCUMENTS = "documents.txt"


def input_copies(job: str, partition: str) -> str:
    """The copies of a night's input that is not files."""
    return f"{job}/inputs/partition={partition}"


def documents(job: str) -> str:
    """The contents of documents that the home keeps, each once under its SHA-256, for all nights
    and owners of the job."""
    return f"{job}/documents"


def document_urls(job: str, partition: str) -> str:
    """What was fetched from which URL for a night: `<sha256 of the URL>.json`."""
    return f"{job}/documents/urls/partition={partition}"
