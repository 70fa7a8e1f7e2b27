"""Dagster's side: when something is done and what its pages show. The work itself is in `flow`.

`definitions` is what Dagster loads, `sensor` a tick of the sensor, `steps` the work of a run. Both
the sensor and the steps evaluate `checks`, and describe what they found by `asset_metadata`.
"""
