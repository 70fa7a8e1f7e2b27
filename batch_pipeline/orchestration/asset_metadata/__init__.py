"""What people see of a night on the pages of its assets, beside its numbers."""
