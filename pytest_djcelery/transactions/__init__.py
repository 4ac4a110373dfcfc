"""Django's transactions: when on_commit hooks run, and what is sent before the commit."""
