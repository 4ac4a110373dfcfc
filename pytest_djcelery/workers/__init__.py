"""What runs the messages: the kinds of workers, and what they share."""
