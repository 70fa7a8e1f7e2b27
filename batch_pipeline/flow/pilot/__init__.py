"""The pilot: a sample goes first, and its verdict gates the rest."""
