"""CSeq: the number and method that order the requests of a dialog.

Runs in: every process. Locks: none. RFC: 3261 §20.16, §8.1.1.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import is_token
from serpy.sip.limits import CSEQ_DIGITS, CSEQ_MAX

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

_SPACE: Final = 0x20
_ZERO: Final = 0x30
_A: Final = 0x41
_Z: Final = 0x5A
_METHODS: Final = frozenset(
    ("INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "INFO", "UPDATE", "PRACK", "SUBSCRIBE", "NOTIFY", "REFER",
     "MESSAGE", "PUBLISH")
)  # fmt: skip


class CSeq:
    """A parsed CSeq value: *number* is below 2**31, *method* as written (methods are case-sensitive)."""

    def __init__(self, number: int, method: str) -> None:
        self.number: Final = number
        self.method: Final = method

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


def parse_cseq(text: str) -> CSeq:
    """The CSeq written as *text*: ``1*DIGIT LWS Method``. Raises ParseError."""
    digits, _, rest = text.partition(" ")
    if rest in _METHODS and len(digits) < CSEQ_DIGITS and digits.isascii() and digits.isdigit():
        return CSeq(int(digits), rest)  # nothing is unusual about it
    if "\t" in text:  # LWS may be a tab
        digits, _, rest = text.replace("\t", " ").partition(" ")
    method = rest.strip(" ")
    if not digits.isascii() or not digits.isdigit():
        raise ParseError("CSeq without a number", header="CSeq", value=text)
    if len(digits) > CSEQ_DIGITS:
        digits = digits.lstrip("0") or "0"
        if len(digits) > CSEQ_DIGITS:
            raise ParseError("CSeq number of 2**31 or more", header="CSeq", value=text)
    number = int(digits)
    if number > CSEQ_MAX:
        raise ParseError("CSeq number of 2**31 or more", header="CSeq", value=text)
    if not is_token(method):
        raise ParseError("CSeq without a method", header="CSeq", value=text)
    return CSeq(number, method)


def plain_cseq(line: str, at: i64) -> CSeq | None:
    """The CSeq in *line*, whose name with its colon ends at *at*; None when it is not ``123 INVITE`` in capitals."""
    end: i64 = len(line)
    if at < end and ord(line[at]) == _SPACE:
        at += 1
    number: i64 = 0
    most: i64 = at + CSEQ_DIGITS - 1
    start: i64 = at
    while at < end and at <= most:
        digit: i64 = ord(line[at]) - _ZERO
        if digit < 0 or digit > 9:
            break
        number = number * 10 + digit
        at += 1
    if at == start or at > most or at + 1 >= end or ord(line[at]) != _SPACE:
        return None
    start = at + 1
    at = start
    while at < end:
        letter: i64 = ord(line[at])
        if letter < _A or letter > _Z:
            return None
        at += 1
    return CSeq(number, line[start:])
