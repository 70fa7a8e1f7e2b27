"""The answer to a request: its content, made of the words of the prompt, and its tokens."""
