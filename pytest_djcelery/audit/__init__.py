"""``--djcelery-audit``: what an existing suite hides. It watches, and changes nothing."""
