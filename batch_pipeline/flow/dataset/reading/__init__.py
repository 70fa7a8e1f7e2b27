"""Reading: from a declared path to files, and from files to rows of JSON, each with its id."""
