"""Tests of prices, estimate, budget and report."""
