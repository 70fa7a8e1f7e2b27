"""What a job declares: its specification, its reading from YAML, its partitions and due times."""
