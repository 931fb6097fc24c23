"""The character classes and small rules of RFC 3261 §25.1 that several grammars share.

Every expression is linear: alternatives start with different characters, runs are possessive. Nothing here knows
Unicode: a character beyond ASCII is UTF8-NONASCII, nothing else.

Runs in: every process. Locks: none. RFC: 3261 §25.1.
"""

from __future__ import annotations

import re
from typing import Final

from serpy.errors import ParseError
from serpy.sip.limits import DIGITS_MAX, EXPIRES_MAX

# token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~" )
TOKEN: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]++")

# quoted-string, without the SWS before it: DQUOTE *(qdtext / quoted-pair ) DQUOTE
QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)

# userinfo without "@": *( unreserved / escaped / user-unreserved / ":" / the characters of passwords )
USERINFO: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/:#]++|%[0-9A-Fa-f]{2}|[^\x00-\x7f]++)++")

# uri-parameters and headers: paramchar, hnv characters, and their separators
URI_TAIL: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$;=?#,|^{}`]++|%[0-9A-Fa-f]{2}|[^\x00-\x7f]++)*+")

# hostname; "_" is not legal in one but found in real networks
HOSTNAME: Final = re.compile(r"[A-Za-z0-9_\-.]++")

# IPv6address between the brackets: hexadecimal digits, ":" and an embedded IPv4 address; a zone is not legal in SIP
IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}+")

# scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )
SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*+")

# telephone-subscriber of RFC 3966: "+" and digits, or local digits with "*" and "#"; at least one of them
TEL: Final = re.compile(r"\+[\-.()]*+[0-9][0-9\-.()]*+|[\-.()]*+[0-9A-Fa-f*#][0-9A-Fa-f*#\-.()]*+")

_UPPER: Final = {code: code + 32 for code in range(65, 91)}


def ascii_lower(text: str) -> str:
    """*text* with A-Z in lower case and everything else, also beyond ASCII, as it is."""
    return text.lower() if text.isascii() else text.translate(_UPPER)


def is_hostname(text: str) -> bool:
    """True when *text* can be a host name or IPv4 address."""
    if text.isascii() and text.replace(".", "").isalnum():
        return True
    return HOSTNAME.fullmatch(text) is not None


def is_token(text: str) -> bool:
    """True when *text* is a token: one or more of the characters of that rule."""
    if text.isascii() and (text.isalnum() or text.replace("-", "").isalnum()):
        return True
    return TOKEN.fullmatch(text) is not None


def parse_number(text: str, largest: int) -> int:
    """*text* as a number of ASCII digits up to *largest*; -1 for anything else, also for one too large."""
    if not text.isascii() or not text.isdigit():
        return -1
    if len(text) > DIGITS_MAX:
        text = text.lstrip("0") or "0"
        if len(text) > DIGITS_MAX:
            return -1
    number = int(text)
    return number if number <= largest else -1


def parse_expires(text: str) -> int | None:
    """The delta-seconds written as *text*, at most 2**32-1 (a larger one counts as that); None when malformed."""
    text = text.strip(" \t")
    if not text.isascii() or not text.isdigit():
        return None
    if len(text) > DIGITS_MAX:
        text = text.lstrip("0") or "0"
        if len(text) > DIGITS_MAX:
            return EXPIRES_MAX
    seconds = int(text)
    return min(EXPIRES_MAX, seconds)


def parse_q(text: str) -> int:
    """The qvalue written as *text* in thousandths, 0..1000; -1 when malformed.

    qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ); more digits than three are cut, ".5" is accepted.
    """
    whole, _, fraction = text.strip(" \t").partition(".")
    if whole not in {"0", "1", ""} or (not whole and not fraction):
        return -1
    if fraction and not (fraction.isascii() and fraction.isdigit()):
        return -1
    thousandths = int((fraction + "000")[:3]) + (1000 if whole == "1" else 0)
    return thousandths if thousandths <= 1000 else -1


def split_option_tags(text: str) -> list[str]:
    """The option tags of a Require, Proxy-Require, Supported or Unsupported value; [] for an empty one.

    Raises ParseError when one is not a token.
    """
    tags: list[str] = []
    for part in text.split(","):
        tag = part.strip(" \t")
        if not tag:
            continue
        if not is_token(tag):
            raise ParseError("option tag is not a token", value=tag)
        tags.append(tag)
    return tags


def unquote(text: str) -> str:
    """*text* without its double quotes and with quoted-pairs resolved; unchanged when it is not quoted."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    inner = text[1:-1]
    if "\\" not in inner:
        return inner
    out: list[str] = []
    start = 0
    while True:
        slash = inner.find("\\", start)
        if slash < 0 or slash + 1 >= len(inner):
            out.append(inner[start:])
            return "".join(out)
        out.append(inner[start:slash])
        out.append(inner[slash + 1])
        start = slash + 2


def quote(text: str) -> str:
    """*text* as a quoted-string, with its quotes and backslashes escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
