"""Dagster decides when; what is done stands in the flow."""
