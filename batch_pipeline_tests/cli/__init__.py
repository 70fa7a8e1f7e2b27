"""Tests of the command line, most of them as its users see it: a process, its streams, its code."""
