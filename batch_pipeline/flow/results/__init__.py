"""Collected results: downloaded, judged, and published as rows and dead letters."""
