"""Tests of jobs in YAML."""
