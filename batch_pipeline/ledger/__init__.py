"""The ledger: what survives a crash, in SQLite or PostgreSQL."""
