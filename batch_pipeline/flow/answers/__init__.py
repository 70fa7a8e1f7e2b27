"""What an answer is: its outcome, its message, its columns, and the table of answers of a night."""
