"""A worker in the test's own thread, connection and transaction."""
