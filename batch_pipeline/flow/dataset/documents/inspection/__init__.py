"""What a document is: its kind, text, pages and pictures, looked at in a process of its own."""
