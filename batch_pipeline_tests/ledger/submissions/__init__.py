"""Tests of submissions in the ledger."""
