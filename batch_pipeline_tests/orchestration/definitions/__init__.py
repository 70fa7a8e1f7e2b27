"""Tests of what Dagster loads of a job."""
