"""HTML whose text cannot become markup: what is not ``Markup`` is escaped.

Run names, tokens and settings are text of others. ``visible`` turns control and format characters
into escapes, so that none of them changes the order of the text around it.
"""

from __future__ import annotations

import html

from electra_ref.terminal_text import visible

_WITHOUT_END = frozenset({"meta"})


class Markup(str):
    """HTML that is ready to be shown."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Return ``text`` as HTML that shows it; ``Markup`` stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text)))


def element(tag: str, /, *children: str, **attributes: str | bool) -> Markup:
    """Return an element. An underscore in the name of an attribute is a hyphen in HTML.

    An underscore at its end is left out (``class_``). An attribute that is True has no value, and
    one that is False is left out.
    """
    start = "".join([f"<{tag}", *(_attribute(*pair) for pair in attributes.items()), ">"])
    if tag in _WITHOUT_END:
        return Markup(start)
    return Markup("".join([start, *map(escaped, children), f"</{tag}>"]))


def _attribute(name: str, value: str | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{escaped(value)}"'
