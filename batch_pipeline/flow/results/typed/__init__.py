"""The typed dataset of a night: columns of the input and fields of the answers."""
