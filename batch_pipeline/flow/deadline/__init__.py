"""What would miss a night's deadline as a batch, and its change to real time."""
