"""Answers of the job's earlier nights are taken over for requests that are the same."""
