"""Text of strangers as people may see it, and as it may stand in a header.

Runs in: every process. Locks: none. RFC: 3261 §25.1 (TEXT-UTF8-TRIM).
"""

from __future__ import annotations

import re
from typing import Final

from serpy.sip.own_lines import OwnLines

# Controls, DEL, C1; the marks that turn the direction of a line; line and paragraph separators; lone surrogates.
_SURROGATES: Final = f"{chr(0xD800)}-{chr(0xDFFF)}"  # as numbers: the compiler takes none in a text
_MARKS: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb" + _SURROGATES
_HIDDEN: Final = re.compile(f"[\x00-\x1f{_MARKS}]")
_HIDDEN_IN_LOGS: Final = re.compile(f"[\x00-\x08\x0a-\x1f{_MARKS}]")
_BREAKS: Final = re.compile("[\x00\r\n]")
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f]")


def printable(text: str) -> str:
    r"""*text* with everything that a terminal or a log would obey written as ``\x1b`` or ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """*text*, which has several lines of our own, with everything but their ends as ``printable()`` writes it."""
    return "\n".join([printable(line) for line in text.split("\n")])


def one_line(text: str) -> str:
    r"""*text* as ``printable()`` writes it, but with tabs, and line ends as ``\r\n``: a line of a log."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN_IN_LOGS.sub(_escaped, text.replace("\r", "\\r").replace("\n", "\\n"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def without_controls(text: str) -> str:
    """*text* with one space for each control character: a value for another program, a reason phrase."""
    return text if text.isprintable() else _CONTROLS.sub(" ", text)


def reason_text(text: str) -> str:
    """*text* as it may stand in a status line: without controls, those at its end are cut (RFC 3261 §25.1)."""
    return text if text.isprintable() else _CONTROLS.sub(" ", text).rstrip(" ")


def header_value(text: str) -> str:
    """*text* as it may stand in one header line: CR, LF and NUL become spaces, but for lines of our own."""
    if isinstance(text, OwnLines):
        return text
    if "\n" in text or "\r" in text or "\0" in text:
        return _BREAKS.sub(" ", text)
    return text
