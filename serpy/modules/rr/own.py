"""Our own Route as it came back: what stands in it that is ours.

Nearly always it is, letter for letter, what ``record_route()`` has written: then it is read without being parsed.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.4.
"""

from __future__ import annotations

from typing import Final

from serpy.sip.flow import Listener
from serpy.sip.uri import Uri

_COOKIE: Final = ";avp="
_COOKIE_SIZE: Final = 5
_ENDS: Final = (";lr", ";lr=on")


class OwnRoute:
    """The URI *text* with our parameters: *from_tag* and *cookie* as they stand there, None when absent."""

    def __init__(self, text: str, from_tag: str | None, cookie: str | None, *, is_double: bool) -> None:
        self.text: Final = text
        self.from_tag: Final = from_tag
        self.cookie: Final = cookie
        self.is_double: Final = is_double  # one of two lines

    @property
    def is_marked(self) -> bool:
        """True for a Route that ``record_route()`` has written for a dialog, or for one of two addresses."""
        return self.cookie is not None or self.is_double or self.from_tag is not None


def head_of(listener: Listener) -> str:
    """How the URI that ``record_route()`` writes for *listener* begins."""
    transport = "" if listener.transport == "udp" else f";transport={listener.transport}"
    return f"sip:{listener.sent_by}{transport};ftag="


def own_of_text(text: str, heads: list[str]) -> OwnRoute | None:
    """The well-formed URI *text* when it begins with one of *heads* and nothing was added to it; None for any other."""
    if "@" in text or "?" in text:
        return None  # what it begins with is not the host, or what it ends with no parameters
    for head in heads:
        if text.startswith(head):
            start = len(head)
            end = text.find(";", start)
            after = end + _COOKIE_SIZE
            if end < 0 or text[end:after] != _COOKIE:
                return None
            last = text.find(";", after)
            if last < 0 or text[last:] not in _ENDS:
                return None
            return OwnRoute(text, text[start:end], text[after:last], is_double=False)
    return None


def own_of_uri(uri: Uri) -> OwnRoute:
    """The Route *uri*, whatever its parameters are."""
    return OwnRoute(uri.text, uri.param("ftag"), uri.param("avp"), is_double=uri.param("r2") is not None)
