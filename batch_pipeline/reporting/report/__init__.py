"""The cost report of a night: as a value, and as JSON, Markdown and HTML."""
