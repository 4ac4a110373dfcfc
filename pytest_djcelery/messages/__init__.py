"""Values that know no test: messages, the journal of them, and how they compare."""
