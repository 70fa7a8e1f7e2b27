"""Documents as they are: files, URLs and bytes that go into a request as blocks of their own."""
