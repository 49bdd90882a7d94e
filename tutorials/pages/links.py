"""What is wrong with the links of a site: inside it those that lead nowhere, outside whatever a page would fetch."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
ONLY_NAMED = {"canonical", "next", "prev", "search", "index", "author", "license"}  # <link rel>: nothing is fetched


class Page(HTMLParser):
    """The links and the names of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        link = given.get("href" if tag in ("a", "link") else "src", "")
        if link:
            self.links.append(link)
        if tag in FETCHED and not (tag == "link" and given.get("rel") in ONLY_NAMED):
            self.fetched.append(given.get(FETCHED[tag], ""))


def complaints(site: Path) -> list[str]:
    """One line for each link that is wrong."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        where = path.relative_to(site)
        wrong += [f"{where}: fetches {link}" for link in page.fetched if urlsplit(link).scheme in ("http", "https")]
        for link in page.links:
            address, fragment = urldefrag(link)
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
            if not target.exists():
                wrong.append(f"{where}: {link} leads nowhere")
            elif target in pages and unquote(fragment) not in pages[target].names:
                wrong.append(f"{where}: there is no #{fragment} in {target.name}")
    return wrong
