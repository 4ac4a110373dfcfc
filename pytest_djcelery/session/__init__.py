"""One pytest run, and the sandbox of each test in it."""
