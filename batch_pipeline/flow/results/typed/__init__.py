"""The typed dataset of a night: beside its results, with columns of the input and of the answers."""
