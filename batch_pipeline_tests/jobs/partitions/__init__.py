"""Tests of partitions and due times."""
