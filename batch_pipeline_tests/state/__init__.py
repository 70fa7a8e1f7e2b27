"""Tests of `batch_pipeline.state`."""
