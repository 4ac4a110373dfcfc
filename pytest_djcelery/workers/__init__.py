"""Who runs the messages."""
