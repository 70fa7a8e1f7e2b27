"""Tests of what the steps of a run do."""
