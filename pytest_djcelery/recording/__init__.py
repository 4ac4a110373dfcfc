"""What goes into the journal: publishes, what tasks go through, who reads a result."""
