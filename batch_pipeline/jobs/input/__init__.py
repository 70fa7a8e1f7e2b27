"""What a job declares of its input: files, tables, upstream assets, and documents."""
