"""What production does to tasks, done on purpose."""
