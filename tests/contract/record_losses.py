"""Records what prefork workers do when something is lost.

``python -m tests.contract.record_losses`` asks real workers, over Redis and over RabbitMQ, and
writes the answers of this Celery into `losses/losses.json`, beside those of other versions.
``--check [CASE …]`` compares them with what is recorded, and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Final

from tests.contract.losses import truth

COMMAND: Final = "python -m tests.contract.record_losses"
BROKERS: Final = ("redis", "rabbitmq")
_DEADLINE: Final = 1800  # seconds for a broker


def main() -> int:
    """Record, or compare."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="only this one")
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these, with --check")
    options = parser.parse_args()
    if options.cases and not options.check:
        parser.error("a record is of all cases; name some with --check")
    brokers = options.broker or BROKERS
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda broker: _recorded(broker, options.cases), brokers))
    found = {
        f"{celery()} {broker}": answer for broker, answer in zip(brokers, answers, strict=True)
    }
    if options.check:
        differences = compare(found)
        sys.stdout.writelines(f"{line}\n" for line in differences)
        return 1 if differences else 0
    records, made_with = truth.read(), truth.versions() if truth.FILE.exists() else {}
    with_these = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "billiard"))
    truth.write(records | found, made_with | dict.fromkeys(found, with_these))
    return 0


def celery() -> str:
    """Return the installed Celery's version, as records are named for it."""
    return ".".join(version("celery").split(".")[:2])


def compare(found: truth.Records) -> list[str]:
    """Return how outcomes differ from those that are recorded."""
    records = truth.read()
    return [
        f"{where}: {difference}"
        for where, outcomes in found.items()
        for difference in truth.differences(
            {name: records[where][name] for name in outcomes if name in records[where]}, outcomes
        )
    ]


def _recorded(broker: str, cases: list[str]) -> dict[str, truth.Outcome]:
    command = [sys.executable, "-m", "tests.contract.losses.recording", broker, *cases]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=_DEADLINE, check=True)
    outcomes: dict[str, truth.Outcome] = json.loads(done.stdout)
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
