"""The way of the data, a folder for each station; nothing here knows Dagster."""
