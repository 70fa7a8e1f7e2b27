"""What is told of a document from its text: its words and its language."""
