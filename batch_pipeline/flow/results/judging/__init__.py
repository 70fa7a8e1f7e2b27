"""What result lines mean: rows of answers and results, dead letters, and counts for the ledger."""
