"""The command line; `main` is its entry point."""

from __future__ import annotations

from batch_pipeline.cli.app import main

__all__ = ["main"]
