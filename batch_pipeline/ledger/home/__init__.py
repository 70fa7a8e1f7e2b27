"""What the ledger keeps of its home: whose it is, what is published there, what is made anew."""
