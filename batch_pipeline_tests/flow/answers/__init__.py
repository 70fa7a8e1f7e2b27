"""Tests of what an answer is."""
