"""What a job says to the model: system prompt, template, turns and examples."""
