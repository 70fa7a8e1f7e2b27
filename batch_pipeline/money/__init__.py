"""Prices, bounds and the cost report."""
