"""What survives a crash: the ledger and the files."""
