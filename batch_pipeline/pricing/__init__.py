"""Prices by model and date, bounds on what can be spent, and projections from a sample."""
