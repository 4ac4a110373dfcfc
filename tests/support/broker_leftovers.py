"""What is left of a run on a broker."""

from __future__ import annotations

import json
from pathlib import Path

from kombu import Connection

from tests.support.services import url

BROKERS = ["redis", "rabbitmq"]

# A test of the inner run notes what was made, since the end of the run removes the note.
NOTE = """
    import shutil
    from pathlib import Path

    def note(app):
        record = app.conf.broker_transport_options["djcelery"]["record"]
        shutil.copy(record, Path(f"{Path(record).name}.noted"))
"""


def noted(folder: Path) -> list[tuple[str, str, str]]:
    """Prefix, kind and name of all that runs in ``folder`` have noted."""
    return [
        (path.name.removesuffix("record.noted"), *json.loads(line))
        for path in folder.rglob("*record.noted")
        for line in path.read_text().splitlines()
    ]


def left(service: str, folder: Path) -> list[str]:
    """What is still there of what was noted."""
    made = noted(folder)
    assert made, "the inner run has noted nothing"
    with Connection(url(service)) as connection:
        if service == "redis":
            client = connection.default_channel.client
            prefixes = {prefix for prefix, _, _ in made}
            return [str(key) for each in prefixes for key in client.keys(f"{each}*")]
        return [name for _, kind, name in made if _exists(connection, kind, name)]


def _exists(connection: Connection, kind: str, name: str) -> bool:
    channel = connection.channel()
    try:
        if kind == "queue":
            channel.queue_declare(name, passive=True)
        elif kind == "exchange":
            channel.exchange_declare(name, "direct", passive=True)
        else:
            return False
    except connection.channel_errors:
        return False
    else:
        channel.close()
        return True
