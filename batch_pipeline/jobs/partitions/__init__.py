"""When a job runs, and for which partition: time windows, lists, due times, path patterns."""
