"""A ledger that was lost or restored from before, rebuilt from its home and the API's list."""
