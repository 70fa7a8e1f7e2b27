"""Accounts and their organisations in the ledger."""
