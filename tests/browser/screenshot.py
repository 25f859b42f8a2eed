"""A picture of a running dashboard: python -m tests.browser.screenshot URL FILE [--width N] [--height N] [--dark]

URL is the login link (with the token). Waits until the page is live and CPU has been measured once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.browser.devtools import browser


async def take(url: str, file: Path, width: int, height: int, dark: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="edged-chromium-", ignore_cleanup_errors=True) as profile:
        async with browser(Path(profile)) as page:
            await page.look(width, height, dark)
            await page.go(url)
            await page.until("document.querySelector('#spark .line').getAttribute('d')")
            await page.until(
                "!document.querySelector('tr.pod.good') ||"
                " document.querySelector('tr.pod.good [data-label=CPU]').textContent.includes('%')"
            )
            await page.screenshot(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    asyncio.run(take(args.url, args.file, args.width, args.height, args.dark))


if __name__ == "__main__":
    main()
