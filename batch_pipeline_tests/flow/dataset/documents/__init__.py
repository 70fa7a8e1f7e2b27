"""Tests of documents: reading, finding, keeping, opening."""
