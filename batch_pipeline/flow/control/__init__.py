"""What people do to a night: approve a gate, redrive dead letters, cancel, prune."""
