"""Submitted batches: sent, reconciled, polled and cancelled."""
