"""What the ledger keeps of processes: their signs of life, and the work that each has claimed."""
