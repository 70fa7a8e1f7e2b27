"""Tests of what people did, in the ledger."""
