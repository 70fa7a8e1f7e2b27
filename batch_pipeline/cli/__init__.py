"""The command-line face of a job; `main` is the entry point."""

from __future__ import annotations

from batch_pipeline.cli.app import main

__all__ = ["main"]
