"""Sources: inputs that are not files, which are copied into the home once and read from there."""
