"""The broker and the result backend in memory."""
