"""Writes documents for the example job: put_documents.py FOLDER DAY COUNT.

FOLDER is a local folder or a URL that fsspec knows, for instance s3://batch-pipeline/notes.
"""

from __future__ import annotations

import json
import sys

from fsspec.core import url_to_fs

SUBJECTS = ("a fee that was paid twice", "a licence that ends", "a parcel without a sender")


def main(folder: str, day: str, count: str) -> None:
    if not folder:
        sys.exit("FOLDER is empty: is the variable NOTES set?")
    store, path = url_to_fs(f"{folder.rstrip('/')}/{day}")
    store.makedirs(path, exist_ok=True)
    with store.open(f"{path}/notes.jsonl", "wb") as output:
        for number in range(int(count)):
            subject = SUBJECTS[number % len(SUBJECTS)]
            text = f"Note {number} of {day}: it is about {subject}, and wants to be answered."
            output.write(json.dumps({"id": f"{day}/{number}", "text": text}).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
