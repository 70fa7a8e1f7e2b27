"""The accounts that send: accounts.yaml, and what follows from it."""
