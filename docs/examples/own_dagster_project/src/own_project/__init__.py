"""A Dagster project with assets of its own and a batch job as a component."""
