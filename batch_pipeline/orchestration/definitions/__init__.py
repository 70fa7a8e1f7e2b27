"""What Dagster loads: assets, jobs, schedule, sensor, checks and their descriptions.

Every process of Dagster loads these modules and most do no work: none of them imports the flow at
its top.
"""
