"""Faults: what goes wrong and when, declared, scheduled, and injected around the handlers."""
