"""The definitions of this project; Dagster loads every file of this folder."""
