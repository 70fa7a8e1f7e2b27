"""What a job declares: its specification, how it is read from YAML, its partitions and due times."""
