"""Tests of processes that are killed."""
