"""Tests of the cost report."""
