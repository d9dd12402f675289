"""A reader of pages, for the tests of all of them."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that tags balance, and collects attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # An interactive element inside another cannot be reached, and a list in a paragraph is not one.
        assert tag != "button" or not {"button", "a"} & set(self.open)
        assert tag not in {"ul", "div", "section", "table"} or "p" not in self.open
        assert tag != "li" or self.open[-1] in {"ul", "ol"}
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert [tag] == self.open[-1:], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def with_class(self, *names: str) -> list[dict[str, str]]:
        return [a for _, a in self.elements if set(names) <= set(a.get("class", "").split())]

    def buttons(self) -> list[dict[str, str]]:
        return [a for tag, a in self.elements if tag == "button" and "data-i" in a]
