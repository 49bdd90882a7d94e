"""Every page of the site in headless Chromium, wide and narrow, light and dark.

    python tutorials/pages/look.py build/pages                 complaints, and exit status 1 if there are any
    python tutorials/pages/look.py build/pages pictures        pictures of them all as well, to be looked at

A complaint is a page that is wider than its window, an error of a script, or anything fetched from elsewhere. Needs
Chromium on the PATH and pip install playwright.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

WINDOWS = [(1700, "light"), (1400, "dark"), (1200, "light"), (390, "light"), (390, "dark")]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main(site: Path, pictures: Path | None) -> int:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("there is no Chromium on the PATH")
    paths = sorted(path for path in site.rglob("*.html") if "_modules" not in path.parts)
    wrong: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        for width, scheme in WINDOWS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("pageerror", lambda error: wrong.append(f"an error in a script: {error}"))
            page.on("request", lambda request: wrong.extend(elsewhere(request.url)))
            for path in paths:
                page.goto(path.as_uri())
                name = f"{path.relative_to(site).with_suffix('').as_posix().replace('/', '_')}_{width}_{scheme}"
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    wrong.append(f"{name}: wider than its window")
                if pictures is not None:
                    page.screenshot(path=pictures / f"{name}.png")
            page.close()
        browser.close()
    print(*wrong, sep="\n", file=sys.stderr)
    print(f"{len(paths)} pages, each in {len(WINDOWS)} windows: {len(wrong)} complaints")
    return 1 if wrong else 0


def elsewhere(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "about:")) else [f"fetched from elsewhere: {url}"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
