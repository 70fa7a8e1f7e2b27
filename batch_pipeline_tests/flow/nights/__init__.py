"""Tests of whole nights."""
