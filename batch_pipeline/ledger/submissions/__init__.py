"""Submissions in the ledger: their state machine, refusals, take-overs, and batches of the list."""
