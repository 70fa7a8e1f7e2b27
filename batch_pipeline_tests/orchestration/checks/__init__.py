"""Tests of checks of a night and of all nights."""
