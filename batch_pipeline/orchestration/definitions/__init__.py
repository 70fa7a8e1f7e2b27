"""What Dagster loads: assets, jobs, schedule, sensor, checks and what they are told of themselves.

Every process of Dagster loads it and most do no work: none of it imports the flow as it is loaded.
"""
