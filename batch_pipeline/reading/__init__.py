"""A job's results for users' own code: as frames, as streams, as files of other formats."""
