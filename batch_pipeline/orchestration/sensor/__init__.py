"""A tick of the sensor: what it reads of API, ledger and Dagster's runs, and what it asks for."""
