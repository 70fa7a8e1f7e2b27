"""Tests of accounts.yaml."""
