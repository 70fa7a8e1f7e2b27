"""Writes a job to begin with: guessed from a file of documents, and valid as it is written."""
