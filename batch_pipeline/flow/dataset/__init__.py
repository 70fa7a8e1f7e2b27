"""Input dataset: from a night's files to an immutable snapshot of requests."""
