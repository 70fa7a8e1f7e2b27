"""The cost report as JSON, markdown and HTML, with its charts."""
