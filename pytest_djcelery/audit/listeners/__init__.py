"""What listens during an audited run, put on as soon as there is something to listen to."""
