"""Headless Chromium: opens a page, runs a script in it, and tells what the script returned."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any, Literal

from tests.support.services import require_chromium

DEADLINE = 60  # seconds, for a machine that has much else to do
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
_SCHEMES = {"dark": 0, "light": 1}  # of Blink

#: A window is 500 pixels wide at least; a frame is as narrow as a phone.
_FRAME = """<!DOCTYPE html>
<meta name="color-scheme" content="light dark">
<iframe src="page.html" style="width: {width}px; height: 844px; border: 0"></iframe>
<output></output>
<script>
addEventListener("message", (event) => {{
  document.querySelector("output").textContent = event.data;
}});
</script>
"""


def returned(
    page: str,
    script: str,
    *,
    width: int = 1280,
    scheme: Literal["light", "dark"] = "light",
) -> Any:
    """What the body of a function returns, or its promise, once the page is there.

    Args:
        page: the HTML. Its own policy for scripts holds, to which this one is added.
        script: what is run in it.
        width: of what the page is seen in, in pixels.
        scheme: of colours, as the user of the browser prefers it.
    """
    chromium = require_chromium()
    # The last of its processes can still write there when the first has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / "page.html").write_text(_with_script(page, script), encoding="utf-8")
        (folder / "frame.html").write_text(_FRAME.format(width=width), encoding="utf-8")
        dom = _printed([
            chromium, *_QUIET, f"--user-data-dir={folder / 'user'}", "--window-size=1400,900",
            f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}",
            "--virtual-time-budget=5000", "--dump-dom", (folder / "frame.html").as_uri(),
        ], folder / "dom")  # fmt: skip
    found = re.search(r"<output>(.+?)</output>", dom, re.DOTALL)
    assert found, f"the script has not returned: {dom}"
    return json.loads(unescape(found[1]))


def _with_script(page: str, body: str) -> str:
    script = (
        f"(async () => {{ {body} }})().catch(String).then((value) => "
        "{ parent.postMessage(JSON.stringify(value), '*'); });"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    assert allowed != page
    return allowed.replace("</body>", f"<script>{script}</script></body>")


def _printed(command: Sequence[str], to: Path) -> str:
    # Into a file, and in a separate session: Chromium's processes hold pipes open, and are
    # ended together.
    with (
        to.open("wb") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process,
    ):
        try:
            process.wait(DEADLINE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return to.read_text(encoding="utf-8")
