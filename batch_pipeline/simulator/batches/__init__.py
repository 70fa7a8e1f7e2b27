"""Batches: their store and files, and the answers that they end with."""
