"""Dagster decides when; what is done stands in the flow.

`definitions` is what Dagster loads, `sensing` a tick of the sensor, `steps` the work of a run. Both
of these evaluate `checks` and fill pages with what is in `shown`.
"""
