"""Tests of `batch_pipeline.api`."""
