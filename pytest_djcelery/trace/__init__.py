"""The timeline: what happened in a test, as a table in the terminal and as a page."""
