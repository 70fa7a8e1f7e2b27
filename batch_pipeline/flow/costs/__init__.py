"""What a night will cost and what it has cost: estimate and cost report."""
