"""The way of the data, one module a station; nothing here knows Dagster."""
