"""Requests: from a declaration and a row to Messages parameters, their ids and their sizes."""
