"""What the journal is told: publishes, what tasks go through, who reads a result."""
