"""What a test holds in its hands: each object beside the context manager that makes it."""
