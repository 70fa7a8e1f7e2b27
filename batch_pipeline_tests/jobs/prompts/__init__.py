"""Tests of prompts and templates."""
