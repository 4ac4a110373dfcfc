"""``--djcelery-contract``: which messages a deploy would break, by a file that the team commits."""
