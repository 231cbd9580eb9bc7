"""Headless Chromium, to see what a page does: its elements once the scripts have run, and its picture.

Tests that need it are skipped unless the environment has TL_ENTROPY_BROWSER=required.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
REQUIRED = os.environ.get("TL_ENTROPY_BROWSER") == "required"

needs_browser = pytest.mark.skipif(not REQUIRED, reason="TL_ENTROPY_BROWSER=required asks for Chromium")


def _run(*options, timeout=60):
    if PROGRAM is None:
        pytest.fail("TL_ENTROPY_BROWSER=required, but there is no Chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-sync", "--hide-scrollbars",
            f"--user-data-dir={profile}", *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode("utf-8")


def _written(html, folder):
    page = Path(folder) / "page.html"
    page.write_text(html, encoding="utf-8", newline="")
    return page.as_uri()


def dom(html, *, fragment="", size=(1200, 900), until="data-seen="):
    """The page's elements as HTML, after its scripts have run; ``fragment`` is what follows "#" in its address.

    On a busy machine Chromium may write them down before a frame has loaded: it is asked again until they hold ``until``.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = _written(html, folder) + (f"#{fragment}" if fragment else "")
        for budget in (2000, 10_000, 30_000):
            found = _run(f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={budget}", "--dump-dom", address)
            if until in found:
                break
    return found


def screenshot(html, path, size=(1200, 900), *, dark=False):
    """A picture of the page, ``size`` pixels wide and high, as on a light or a dark desktop."""
    with tempfile.TemporaryDirectory() as folder:
        preference = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
        _run(
            f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=2000", f"--screenshot={path}", *preference,
            _written(html, folder),
        )  # fmt: skip
    return Path(path)


def with_script(html, script):
    """The page with one more script at its end, which its policy allows."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.count("script-src ") == 1
    return html.replace("script-src ", f"script-src 'sha256-{digest}' ").replace("</body>", f"<script>{script}</script></body>")
