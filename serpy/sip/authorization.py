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

_USUAL: Final = frozenset(
    {"username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque"}
)
_PIECES_MAX: Final = 2 * len(_USUAL)
_OPENERS: Final[dict[str, str]] = {f"{lead}{name}=": name for lead in ("", ",", ", ") for name in _USUAL}


class Credentials:
    """One Authorization value. *scheme* is lower case; all others are unquoted, "" when absent.

    *algorithm* and *qop* are as sent; *nc* is the eight hexadecimal digits as sent.
    """

    def __init__(self, scheme: str, fields: dict[str, str]) -> None:
        self.scheme: Final = scheme
        self.fields: Final = fields
        self.username: Final = fields.get("username", "")
        self.realm: Final = fields.get("realm", "")
        self.nonce: Final = fields.get("nonce", "")
        self.uri: Final = fields.get("uri", "")
        self.response: Final = fields.get("response", "")
        self.algorithm: Final = fields.get("algorithm", "")
        self.qop: Final = fields.get("qop", "")
        self.nc: Final = fields.get("nc", "")
        self.cnonce: Final = fields.get("cnonce", "")
        self.opaque: Final = fields.get("opaque", "")

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
            return Credentials(scheme, {})
    fields = _usual_fields(rest)
    if fields is None:
        fields = _any_fields(rest)
    for name in ("username", "realm", "nonce", "uri", "response"):
        if name not in fields:
            raise ParseError(f"no {name} in the credentials", header="Authorization")
    return Credentials("digest", fields)


def _usual_fields(text: str) -> dict[str, str] | None:
    """The fields of *text* when they are written as usual: ``name="value"`` or ``name=value`` between commas.

    None for anything else, whether it is legal or not.
    """
    pieces = text.split('"')  # what stands between quoted values and, every other one, in them
    last = len(pieces) - 1
    if last & 1 or last > _PIECES_MAX or "\\" in text:
        return None
    fields: dict[str, str] = {}
    for at in range(0, last, 2):
        name = _OPENERS.get(pieces[at])
        if name is None or (at == 0) != (pieces[at][0] != ","):
            name = _plain_fields(pieces[at], fields, at > 0, True)
        if name is None or name in fields:
            return None
        fields[name] = pieces[at + 1]
    if pieces[last] and _plain_fields(pieces[last], fields, last > 0, False) is None:
        return None
    return fields


def _plain_fields(text: str, fields: dict[str, str], is_behind: bool, is_before: bool) -> str | None:
    """Add the fields of *text*, which have no quotes; *is_behind* and *is_before* a quoted value, whose name is returned.

    "" when there is none, None for what is not written as usual.
    """
    if is_behind:
        if text[:1] != ",":
            return None
        text = text[1:]
    parts = text.split(",")
    left = len(parts)
    for part in parts:
        left -= 1
        field = part.lstrip(" ") if part[:1] == " " else part
        if not field and not left and not is_before:
            return ""
        equals = field.find("=")
        name = field[:equals]
        if equals < 0 or name not in _USUAL or name in fields:
            return None
        value = field[equals + 1 :]
        if not left and is_before:
            return None if value else name
        if (not value and not left) or " " in value or "\t" in value:
            return None
        fields[name] = value
    return ""


def _any_fields(rest: str) -> dict[str, str]:
    """The fields of *rest*. Raises ParseError."""
    fields: dict[str, str] = {}
    pieces = _split_fields(rest)
    if len(pieces) > PARAMS_MAX:
        raise ParseError("too many fields in the credentials", header="Authorization")
    for piece in pieces:
        equals = piece.find("=")
        name = (piece if equals < 0 else piece[:equals]).strip(" \t")
        if name not in _USUAL:
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
