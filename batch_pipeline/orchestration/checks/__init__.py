"""Asset checks: those of a finished night, and that every due night began."""
