"""The simulator's books: what was accepted, answered and billed, in fact."""
