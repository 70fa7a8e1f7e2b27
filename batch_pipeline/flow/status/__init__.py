"""Where a night stands: progress, warnings and alerts."""
