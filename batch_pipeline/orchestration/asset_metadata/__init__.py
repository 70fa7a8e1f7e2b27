"""What the pages of a night's assets show of it: numbers, texts, tables and images."""
