"""The periodic schedule, on the test's clock."""
