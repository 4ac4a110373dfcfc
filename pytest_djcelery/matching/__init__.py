"""How a record compares with a signature, and explains itself."""
