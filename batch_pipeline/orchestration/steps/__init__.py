"""What the steps of a run do: each calls the flow, and says what came of it."""
