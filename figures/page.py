"""Write the page of the README's tokens, ``token_page.html``, and where Chromium is there its picture, ``token_page.png``.

    python figures/page.py                write both next to this file
    python figures/page.py --out /tmp     write them elsewhere

The page shows the beginning of a held-out module, and stands alone: it needs no network and no server.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import tl_entropy as tle

MODULE, LINES = "mailcap.py", 60
WIDTH, HEIGHT = 1200, 900
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def page() -> tle.plots.TokenPage:
    """The first lines of a module that the bundled model was never shown."""
    text = dict(zip(tle.demo_names(), tle.demo_texts(), strict=True))[MODULE]
    beginning = "".join(text.splitlines(keepends=True)[:LINES])
    result = tle.token_surprisal(tle.demo_model(), beginning, progress=False)
    return tle.plots.tokens(result, title=f"The beginning of {MODULE}, token by token")


def picture(html: Path, browser: str) -> Path:
    """What a browser shows of the page, as on a light desktop."""
    target = html.with_suffix(".png")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--no-first-run", "--disable-background-networking", "--blink-settings=preferredColorScheme=1",
                f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=2000",
                f"--screenshot={target.resolve()}", html.resolve().as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    return target


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: this file's)")
    html = page().save(parser.parse_args().out / "token_page.html")
    print(f"wrote {html}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    print(f"wrote {picture(html, browser)}" if browser else "no picture: there is no Chromium on the PATH")


if __name__ == "__main__":
    main()
