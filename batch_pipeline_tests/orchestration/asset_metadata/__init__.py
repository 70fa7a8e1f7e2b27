"""Tests of what pages of assets show."""
