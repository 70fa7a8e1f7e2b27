"""What may go now: the circuit breaker, the ceilings in USD, and the sums that both judge by."""
