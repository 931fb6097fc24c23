"""From, To, Contact, Route, Record-Route and their like: ``[display] <uri> *(;param)`` or ``addr-spec *(;param)``.

Also the comma and parameter splitting all list headers share. Quoted strings, quoted-pairs and angle brackets hide
commas and semicolons. The URI is kept as text and parsed when asked for.

Runs in: every process. Locks: none. RFC: 3261 §20.10, §25.1.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import QUOTED, ascii_lower, is_token, unquote
from serpy.sip.limits import PARAMS_MAX, VALUES_MAX
from serpy.sip.native import ADDRESS
from serpy.sip.plain import is_plain_uri
from serpy.sip.uri import Uri, parse_uri

_NOT_IN_DISPLAY: Final = (",", ";", '"', "<", ">", "\\", ":", "@")

_KNOWN_PARAMS: Final = {
    name: name for name in ("branch", "rport", "received", "tag", "lr", "expires", "q", "i", "alias", "maddr", "ttl")
}


class NameAddr:
    """One address value. *display* is raw (quotes included, "" when absent); *uri_text* is what stood in <> or bare.

    *params* are the header parameters with lower-case names; a bare one has the value "". Contact ``*`` has the
    *uri_text* ``*``.
    """

    def __init__(self, display: str, uri_text: str, params: dict[str, str]) -> None:
        self.display: Final = display
        self.uri_text: Final = uri_text
        self.params: Final = params
        self._uri: Uri | None = None
        self._is_checked = False

    def set_checked(self) -> None:
        """The URI has been looked at, it is an ordinary one."""
        self._is_checked = True

    def check_uri(self) -> None:
        """Raise ParseError when the URI is none; an ordinary one is not parsed before somebody wants to know more."""
        if not self._is_checked:
            if self._uri is None and not is_plain_uri(self.uri_text):
                self._uri = parse_uri(self.uri_text)
            self._is_checked = True

    @property
    def uri(self) -> Uri:
        """The URI, parsed. Raises ParseError."""
        uri = self._uri
        if uri is None:
            uri = self._uri = parse_uri(self.uri_text)
        return uri

    @property
    def tag(self) -> str:
        """The tag parameter, "" when absent."""
        return self.params.get("tag", "")

    @property
    def display_name(self) -> str:
        """The display name without quotes and with quoted-pairs resolved."""
        return unquote(self.display)

    def param(self, name: str) -> str | None:
        """The header parameter *name* (lower case) as written; "" for a bare one, None when absent."""
        return self.params.get(name)

    @property
    def route_uri(self) -> Uri:
        """The URI of a Route value, with the parameters that stand outside its brackets. Raises ParseError.

        Some stacks (FreeSWITCH) write ``<sip:host>;lr`` or no brackets at all, which makes what we have put into the URI
        parameters of the header (RFC 3261 §20.34 wants the brackets); no parameter of that header means anything else.
        """
        uri = self.uri
        if not self.params or not uri.is_sip:
            return uri
        return uri.replaced(params=(uri.params.rstrip(";") + render_params(self.params)).lstrip(";"))

    def __str__(self) -> str:
        if self.uri_text == "*":
            return "*" + render_params(self.params)
        head = f"{self.display} <{self.uri_text}>" if self.display else f"<{self.uri_text}>"
        return head + render_params(self.params)


# What stood in From and To stands in all messages of a call: parsed once, shared, never changed.
_CACHE_MAX: Final = 4096
_CACHED: Final = 512  # characters; with the number above it bounds what strangers can make us keep
_cache: Final[dict[str, NameAddr]] = {}


def cached_nameaddr(line: str) -> NameAddr:
    """The one address value of the whole header line *line*; the same object for the same line. Raises ParseError.

    For From, To and Route, which repeat in every message of a dialog. Not for folded lines.
    """
    found = _cache.get(line)
    if found is None:
        found = _native_line(line)
        if found is None:
            found = _plain_line(line)
        if found is None:
            found = parse_nameaddr(line[line.find(":") + 1 :].strip(" \t\r\n"))
        if len(line) <= _CACHED:
            if len(_cache) >= _CACHE_MAX:
                _cache.clear()
            _cache[line] = found
    return found


def _native_line(line: str) -> NameAddr | None:
    """The same as ``_plain_line`` where there are no parameters but a tag, read in C; None when that is not certain."""
    if ADDRESS is None:
        return None
    told = ADDRESS(line)
    if told is None:
        return None
    display, uri_text, tag = told
    found = NameAddr(display, uri_text, {"tag": tag}) if tag else NameAddr(display, uri_text, {})
    found.set_checked()
    return found


def _plain_line(line: str) -> NameAddr | None:
    """What ``Name: "display" <uri>;tag=value`` says, with an ordinary URI, with or without display name and parameters;
    None for what is written otherwise.
    """
    left = line.find("<")
    right = line.find(">", left + 1)
    start = line.find(":") + 2
    if start < _NAME_LEAST or left < start or right < 0 or line[start - 1] != " ":
        return None
    display = ""
    if left > start:
        if line[left - 1] != " " or line[start] != '"' or line.find('"', start + 1) != left - 2:
            return None
        display = line[start : left - 1]
        if "\\" in display:
            return None
    uri_text = line[left + 1 : right]
    if not is_plain_uri(uri_text):
        return None
    right += 1
    if right == len(line):
        params: dict[str, str] = {}
    elif line[right : right + 5] == ";tag=" and line[right + 5 :].isalnum():  # and nothing else: From and To
        params = {"tag": line[right + 5 :]}
    else:
        params = parse_params(line[start:], right - start)
    found = NameAddr(display, uri_text, params)
    found.set_checked()
    return found


_NAME_LEAST: Final = 3  # of a header with its colon and a space


def render_params(params: dict[str, str]) -> str:
    """*params* as ``;name=value;bare``."""
    return "".join([f";{name}={value}" if value else f";{name}" for name, value in params.items()])


def without_empty_end(text: str) -> str:
    """*text*, a value or its line, without the semicolon that some phones end it with: nothing can be added behind it.

    We read such a value, but an empty parameter is in no grammar (RFC 3261 §25.1), so we never write one.
    """
    last = text[-1:]
    if last.isalnum() or last == ">":
        return text
    return text.rstrip("; \t\r\n") if last in _EMPTY_ENDS else text


_EMPTY_ENDS: Final = (";", " ", "\t", "\n")


def parse_nameaddr(text: str) -> NameAddr:
    """The one address value *text*. Raises ParseError, also when a comma shows that there are several."""
    text = text.strip(" \t")
    display = ""
    start = 0
    if text[:1] == '"':
        start = _quoted_end(text)
        display = text[:start]
    left = text.find("<", start)
    if left >= 0:
        between = "" if left == start or text[start:left] == " " else text[start:left].strip(" \t")
        if between:
            if start or not _is_display(between):
                # A parameter of a bare address may hold "<" in a quoted string: sip:a@b;x="<"
                if not start and '"' in between:
                    return _parse_bare(text)
                raise ParseError("display name must be quoted", value=text)
            display = between
        right = text.find(">", left)
        if right < 0:
            raise ParseError("address without >", value=text)
        uri_text = text[left + 1 : right]
        if not uri_text or " " in uri_text or "\t" in uri_text:
            raise ParseError("empty or spaced address", value=text)
        if uri_text == "*":
            raise ParseError("* in brackets", value=text)  # the wildcard of Contact has none (RFC 3261 §20.10)
        right += 1
        if right == len(text):
            return NameAddr(display, uri_text, {})
        if text[right : right + 5] == ";tag=":  # and nothing else: From and To
            tag = text[right + 5 :]
            if tag.isalnum() or not (";" in tag or '"' in tag or "," in tag or " " in tag or "\t" in tag):
                return NameAddr(display, uri_text, {"tag": tag})
        return NameAddr(display, uri_text, parse_params(text, right))
    if start:
        raise ParseError("display name without <address>", value=text)
    return _parse_bare(text)


def _quoted_end(text: str) -> int:
    """Where the quoted string at the start of *text* ends."""
    close = text.find('"', 1)
    if close > 0 and text.find("\\", 1, close) < 0:
        return close + 1
    quoted = QUOTED.match(text)
    if quoted is None:
        raise ParseError("quoted string without end", value=text)
    return quoted.end()


def _is_display(text: str) -> bool:
    # *(token LWS), where we also let through other characters that cannot be mistaken for structure
    return text.isalnum() or not any(separator in text for separator in _NOT_IN_DISPLAY)


def _parse_bare(text: str) -> NameAddr:
    # addr-spec: without <> a comma, question mark or semicolon is not part of the URI (RFC 3261 §20.10)
    semicolon = text.find(";")
    uri_text = text if semicolon < 0 else text[:semicolon].rstrip(" \t")
    if not uri_text:
        raise ParseError("empty address", value=text)
    if "?" in uri_text or "," in uri_text:
        raise ParseError("address with ? or , must stand in <>", value=text)
    if " " in uri_text or "\t" in uri_text:
        raise ParseError("white space in address", value=text)
    return NameAddr("", uri_text, {} if semicolon < 0 else parse_params(text, semicolon))


def parse_params(text: str, start: int) -> dict[str, str]:
    """The parameters ``*(;name[=value])`` of *text* from *start* to its end; the first of two alike counts.

    Names are lower-cased, values kept as written, quotes included. Raises ParseError.
    """
    params: dict[str, str] = {}
    tail = text[start:]
    if tail[:1] == ";" and not ('"' in tail or "," in tail or " " in tail or "\t" in tail):
        return _parse_plain_params(tail, params, text)
    tail = tail.strip(" \t")
    if not tail:
        return params
    if tail[0] != ";":
        raise ParseError("text after the address", value=text)
    pieces = split_outside_quotes(tail, ";")
    if len(pieces) > PARAMS_MAX:
        raise ParseError("too many parameters", value=text)
    last = len(pieces) - 1
    for at, piece in enumerate(pieces):
        if at == 0:
            continue  # what stands before the first semicolon: nothing
        name, equals, value = piece.partition("=")
        if not name.islower() or not name.isascii():
            name = ascii_lower(name)
        if not name.isalnum():
            name = name.strip(" \t")
            if not name and not equals and at == last:
                continue  # some phones end a value with ";"
            if not is_token(name):
                raise ParseError("parameter name is not a token", value=text)
        if equals:
            value = value.strip(" \t")
            if "," in value and value[:1] != '"':
                raise ParseError("comma in a single value", value=text)
        elif "," in name:
            raise ParseError("comma in a single value", value=text)
        if name not in params:
            params[name] = value
    return params


def _parse_plain_params(tail: str, params: dict[str, str], text: str) -> dict[str, str]:
    # The usual case: no quotes, commas or white space. Names we know need no checking.
    pieces = tail.split(";")
    last = len(pieces) - 1
    if last >= PARAMS_MAX:
        raise ParseError("too many parameters", value=text)
    for at, piece in enumerate(pieces):
        equals = piece.find("=")
        name = piece if equals < 0 else piece[:equals]
        known = _KNOWN_PARAMS.get(name)
        if known is None:
            if not name and equals < 0 and at in (0, last):
                continue  # before the first semicolon; and some phones end a value with ";"
            if not is_token(name):
                raise ParseError("parameter name is not a token", value=text)
            known = ascii_lower(name)
        if known not in params:
            params[known] = "" if equals < 0 else piece[equals + 1 :]
    return params


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """*text* split at the character *separator* outside quoted strings, pieces as they are.

    Raises ParseError for a quoted string without end.
    """
    return _split(text, separator, angle=False) if '"' in text else text.split(separator)


def split_commas(text: str) -> list[str]:
    """*text* split at commas outside quoted strings and <>, each value trimmed, empty ones left out.

    Raises ParseError for a quoted string or < without end, or too many values.
    """
    if "," not in text:
        value = text.strip(" \t")
        return [value] if value else []
    pieces = _split(text, ",", angle=True) if '"' in text or "<" in text else text.split(",")
    values: list[str] = []
    for piece in pieces:
        value = piece.strip(" \t")
        if value:
            values.append(value)
    if len(values) > VALUES_MAX:
        raise ParseError("too many values", value=text)
    return values


def _split(text: str, separator: str, *, angle: bool) -> list[str]:
    # Jumps from one interesting character to the next; each character is looked at a bounded number of times.
    pieces: list[str] = []
    start = 0
    at = 0
    length = len(text)
    while at < length:
        char = text[at]
        if char == separator:
            pieces.append(text[start:at])
            start = at + 1
        elif char == '"':
            quoted = QUOTED.match(text, at)
            if quoted is None:
                raise ParseError("quoted string without end", value=text)
            at = quoted.end()
            continue
        elif angle and char == "<":
            right = text.find(">", at)
            if right < 0:
                raise ParseError("address without >", value=text)
            at = right
        at += 1
    pieces.append(text[start:])
    return pieces


def parse_nameaddr_list(text: str) -> list[NameAddr]:
    """All address values of one header value. Raises ParseError."""
    if "," not in text:
        return [parse_nameaddr(text)]
    return [parse_nameaddr(value) for value in split_commas(text)]
