"""A report as a reader's program sees it: its text, its elements, and whether they are well nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from memberscope.report import format as fmt
from memberscope.types import Figure

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Page:
    """What was found in a document."""

    text: str
    ids: Counter[str]
    tags: Counter[str]
    attributes: list[tuple[str, str, str]] = field(default_factory=list)

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, name, value in self.attributes if name == attribute]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.parts: list[str] = []
        self.page = Page("", Counter(), Counter())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags[tag] += 1
        self.page.attributes += [(tag, name, value or "") for name, value in attrs]
        self.page.ids.update(value or "" for name, value in attrs if name == "id")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack[-1] == tag, f"</{tag}> closes <{self.stack[-1]}> at {self.getpos()}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.parts.append(data)


def read(html: str) -> Page:
    """Parse a document; every element must be closed where it was opened."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.stack, f"left open: {reader.stack}"
    reader.page.text = " ".join("".join(reader.parts).split())
    return reader.page


def part(html: str, key: str) -> str:
    """The source of one section."""
    start = html.index(f'<section id="{key}"')
    return html[start : html.index("</section>", start) + 10]


def plain(text: str) -> str:
    """Text with every kind of space as one plain space, as a reader would type it."""
    return " ".join(text.split())


def figure_texts(figure: Figure, kind: str) -> Iterator[str]:
    """How a figure reads: its value and its interval, or its reason."""
    if figure.value is None or figure.low is None or figure.high is None:
        yield str(figure.reason)
    elif kind == "share":
        yield plain(fmt.percent(figure.value))
        yield plain(fmt.percent_range(figure.low, figure.high))
    else:
        yield plain(fmt.decimal(figure.value))
        yield plain(fmt.decimal_range(figure.low, figure.high))
