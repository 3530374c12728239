"""What a page that we write would fetch, or lead to, when a browser opens it."""

import re
from html.parser import HTMLParser

FETCHED = {"src", "href", "srcset", "poster", "data", "action", "background"}


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [value or "" for name, value in attributes if name in FETCHED]
        for name, value in attributes:
            if name == "style":
                self.handle_data(value or "")

    def handle_data(self, text: str) -> None:
        self.found += re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]?([^'\";]+)", text)


def addresses(html: str) -> list[str]:
    """Every address of a resource or link, those in styles too; the page must have no script."""
    parser = _Addresses()
    parser.feed(html)
    assert not parser.scripts
    return ["".join(address) for address in parser.found]


def foreign(html: str) -> list[str]:
    """Those that are of another host: neither in the file (``data:``) nor beside it."""
    return [one for one in addresses(html) if re.match(r"(?!data:)[a-z][a-z0-9+.-]*:|//", one, re.IGNORECASE)]
