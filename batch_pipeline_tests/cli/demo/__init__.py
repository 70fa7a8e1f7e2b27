"""Tests of what the demo works on."""
