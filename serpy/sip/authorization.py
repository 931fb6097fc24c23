"""Authorization and Proxy-Authorization: the credentials of a request, as they were sent.

Only the scheme Digest is taken apart; another one (RFC 4475 regaut01) keeps its name and no fields. The arithmetic is
``digest.py``; whether the nonce is ours is the auth module's business.

Runs in: every process. Locks: none. RFC: 3261 §20.7, §25.1; 7616 §3.4.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower, is_token, unquote
from serpy.sip.limits import PARAMS_MAX
from serpy.sip.nameaddr import split_outside_quotes

_NAMES: Final = ("username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque")
_PLACES: Final[dict[str, int]] = {name: place for place, name in enumerate(_NAMES)}
_NEEDED: Final = 0b11111  # a bit for each place: username to response


class Credentials:
    """One Authorization value. *scheme* is lower case; all others are unquoted, "" when absent.

    *algorithm* and *qop* are as sent; *nc* is the eight hexadecimal digits as sent.
    """

    def __init__(self, scheme: str, values: list[str]) -> None:
        self.scheme: Final = scheme
        self.username: Final = values[0]  # in the order of _NAMES
        self.realm: Final = values[1]
        self.nonce: Final = values[2]
        self.uri: Final = values[3]
        self.response: Final = values[4]
        self.algorithm: Final = values[5]
        self.qop: Final = values[6]
        self.nc: Final = values[7]
        self.cnonce: Final = values[8]
        self.opaque: Final = values[9]

    @property
    def is_digest(self) -> bool:
        """True for the scheme Digest."""
        return self.scheme == "digest"

    @property
    def user(self) -> str:
        """The username without a domain behind "@" (some phones send user@domain)."""
        return self.username.partition("@")[0]

    @property
    def domain(self) -> str:
        """What follows "@" in the username, "" when there is none."""
        return self.username.partition("@")[2]


def parse_credentials(text: str) -> Credentials:
    """The credentials written as *text*, one header value. Raises ParseError.

    A Digest value without username, realm, nonce, uri or response is malformed; so is a field that comes twice.
    """
    text = text.strip(" \t")
    scheme, _, rest = text.partition(" ")
    if "\t" in scheme:
        scheme, _, rest = text.partition("\t")
    if scheme != "Digest":
        if not is_token(scheme):
            raise ParseError("credentials without a scheme", header="Authorization", value=scheme)
        scheme = ascii_lower(scheme)
        if scheme != "digest":
            return Credentials(scheme, [""] * len(_NAMES))
    values = _usual_fields(rest)
    if values is None:
        fields = _any_fields(rest)
        for name in _NAMES[: _NEEDED.bit_length()]:
            if name not in fields:
                raise ParseError(f"no {name} in the credentials", header="Authorization")
        values = [fields.get(name, "") for name in _NAMES]
    return Credentials("digest", values)


def _usual_fields(text: str) -> list[str] | None:
    """The values of *text* by _PLACES when all that is needed is there and written as usual: ``name="value"`` or
    ``name=value`` between commas.

    None for anything else, whether it is legal or not.
    """
    if "\\" in text:
        return None
    values = [""] * len(_NAMES)
    seen = 0
    at = 0
    size = len(text)
    while at < size:
        if text[at] == " ":
            at += 1
            continue
        equals = text.find("=", at)
        place = _PLACES.get(text[at:equals], -1)
        at = equals + 1
        if equals < 0 or at == size or place < 0 or seen >> place & 1:
            return None
        seen |= 1 << place
        if text[at] == '"':
            quote = text.find('"', at + 1)
            if quote < 0:
                return None
            values[place] = text[at + 1 : quote]
            at = quote + 1
            if at < size and text[at] != ",":
                return None
        else:
            comma = text.find(",", at)
            if comma < 0:
                comma = size
            value = text[at:comma]
            if '"' in value or " " in value or "\t" in value:
                return None
            values[place] = value
            at = comma
        at += 1
    return values if seen & _NEEDED == _NEEDED else None


def _any_fields(rest: str) -> dict[str, str]:
    """The fields of *rest*. Raises ParseError."""
    fields: dict[str, str] = {}
    pieces = _split_fields(rest)
    if len(pieces) > PARAMS_MAX:
        raise ParseError("too many fields in the credentials", header="Authorization")
    for piece in pieces:
        equals = piece.find("=")
        name = (piece if equals < 0 else piece[:equals]).strip(" \t")
        if name not in _PLACES:
            name = ascii_lower(name)
            if not name and equals < 0:
                continue
            if not is_token(name):
                raise ParseError("bad field in the credentials", header="Authorization")
        if equals < 0:
            raise ParseError("bad field in the credentials", header="Authorization")
        if name in fields:
            raise ParseError(f"{name} comes twice in the credentials", header="Authorization")
        value = piece[equals + 1 :]
        if value.startswith('"') and value.endswith('"') and len(value) > 1 and "\\" not in value:
            fields[name] = value[1:-1]
        else:
            fields[name] = _field_value(value.strip(" \t"))
    return fields


def _split_fields(text: str) -> list[str]:
    """*text* split at the commas outside quoted strings. Raises ParseError."""
    pieces = text.split(",")
    if "\\" in text or len(pieces) > PARAMS_MAX:
        return split_outside_quotes(text, ",")
    found: list[str] = []
    pending = ""  # the start of a quoted string with a comma in it
    for piece in pieces:
        if pending:
            piece = pending + "," + piece
            pending = ""
        if piece.count('"') & 1:
            pending = piece
        else:
            found.append(piece)
    if pending:
        raise ParseError("quoted string without end in the credentials", header="Authorization")
    return found


def _field_value(value: str) -> str:
    if value[:1] != '"':
        return value
    if len(value) < 2 or value[-1] != '"':
        raise ParseError("quoted string without end in the credentials", header="Authorization")
    return unquote(value)
