"""The simulator's books: what was accepted, answered and billed, whatever a client believes."""
