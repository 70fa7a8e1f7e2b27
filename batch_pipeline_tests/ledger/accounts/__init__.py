"""Tests of accounts in the ledger."""
