"""Documents: the files, URLs and bytes that a row names, and what is sent of them."""
