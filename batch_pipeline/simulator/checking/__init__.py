"""What the API refuses of a request and of its documents, and what a document holds."""
