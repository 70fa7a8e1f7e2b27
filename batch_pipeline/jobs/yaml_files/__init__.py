"""Declarations as files: from YAML to JobSpecs, with every problem named by file, line and key."""
