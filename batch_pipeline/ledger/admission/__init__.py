"""Admission: what may go out now, and why a night does not move."""
