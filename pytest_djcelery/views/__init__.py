"""What a test sees: each view reads the one journal."""
