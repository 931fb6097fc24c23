"""One accounting row: what the columns hold, and in which letters of ``log_fmt`` they are chosen.

Texts are cut at the lengths of SER's tables (database.md, ``acc``) and made storable, so that no peer can write a
message whose row the database refuses. Times are UTC.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Avp, AvpName, Context
from serpy.db.schema import is_datetime
from serpy.db.sql import time_text
from serpy.script.avps import FROM_USER, TO_USER, TRACK_FROM, TRACK_TO
from serpy.sip.message import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serpy.db.interface import Value

# letter of log_fmt, parameter that names the column, its default, what is in it
LETTERS: Final = (
    ("I", "fromuid_column", "from_uid", "uid of the caller"),
    ("U", "touid_column", "to_uid", "uid of the callee"),
    ("D", "todid_column", "to_did", "domain id of the callee"),
    ("M", "fromdid_column", "from_did", "domain id of the caller"),
    ("f", "from_column", "sip_from", "From"),
    ("t", "to_column", "sip_to", "To"),
    ("S", "status_column", "sip_status", "final status"),
    ("m", "method_column", "sip_method", "method"),
    ("i", "iuri_column", "in_ruri", "Request-URI as received"),
    ("o", "ouri_column", "out_ruri", "Request-URI as sent"),
    ("F", "fromuri_column", "from_uri", "URI of From"),
    ("T", "touri_column", "to_uri", "URI of To"),
    ("c", "callid_column", "sip_callid", "Call-ID"),
    ("n", "cseq_column", "sip_cseq", "CSeq number"),
    ("u", "diguser_column", "digest_username", "digest username"),
    ("R", "digrealm_column", "digest_realm", "digest realm"),
    ("r", "fromtag_column", "from_tag", "tag of From"),
    ("d", "totag_column", "to_tag", "tag of To, from the answer"),
    ("p", "src_ip_column", "src_ip", "source address, as text"),
    ("P", "src_port_column", "src_port", "source port"),
    ("x", "reqtimestamp_column", "request_timestamp", "when the request came"),
    ("X", "restimestamp_column", "response_timestamp", "when the row was made"),
    ("g", "flags_column", "flags", "message flags"),
    ("a", "attrs_column", "attrs", "attributes"),
)
ALL_LETTERS: Final = "acdfgimnoprtuxDFIMPRSTUX"
_ALWAYS: Final = "xX"  # the tables do without none of these
# What the ACK of an accounted INVITE shares with it.
SHARED: Final = "IUDMuRga"

_ID_MAX: Final = 64
_TEXT_MAX: Final = 255
_TAG_MAX: Final = 128
_METHOD_MAX: Final = 16
_AUTH_NOTE: Final = "auth"


class Row:
    """Makes rows with the administrator's columns: *columns* by letter, *letters* to fill, *attrs* to list."""

    def __init__(self, columns: Mapping[str, str], letters: str, attrs: list[AvpName], server_id: int) -> None:
        self._names: Final[dict[str, str]] = dict(columns)
        self._left_out: Final[list[str]] = [
            columns[letter] for letter in ALL_LETTERS if letter not in letters and letter not in _ALWAYS
        ]
        self._attrs: Final[list[AvpName]] = attrs
        self._server_id: Final = server_id
        self._server_id_column: Final = columns["server_id"]

    def make(
        self, table: str, ctx: Context, request: Request, arrived: float, status: int, response: Response | None,
        to_tag: str, uri: str, now: float,
    ) -> dict[str, Value]:  # fmt: skip
        """The row for *request*. *status* 0 = none; *response* None = an answer of our own, with *to_tag*."""
        names = self._names
        avps = ctx.avps
        to_value = request.get("to") if response is None else response.get("to")
        username, realm = _digest(ctx)
        row: dict[str, Value] = {
            self._server_id_column: self._server_id,
            names["I"]: _word(avps.newest(FROM_USER, "uid")),
            names["U"]: _word(avps.newest(TO_USER, "uid")),
            names["D"]: _word(avps.search("did", TRACK_TO)),
            names["M"]: _word(avps.search("did", TRACK_FROM)),
            names["f"]: _text(request.get("from"), _TEXT_MAX),
            names["t"]: _text(to_value, _TEXT_MAX),
            names["S"]: status or None,
            names["m"]: _text(request.method, _METHOD_MAX),
            names["i"]: _text(request.request_uri, _TEXT_MAX),
            names["o"]: _text(uri, _TEXT_MAX),
            names["F"]: _text(request.from_.uri_text, _TEXT_MAX),
            names["T"]: _text(request.to.uri_text, _TEXT_MAX),
            names["c"]: _text(request.call_id, _TEXT_MAX),
            names["n"]: request.cseq.number,
            names["u"]: _text(username, _ID_MAX),
            names["R"]: _text(realm, _TEXT_MAX),
            names["r"]: _text(request.from_tag, _TAG_MAX),
            names["d"]: _text(to_tag, _TAG_MAX),
            names["p"]: ctx.flow.host,
            names["P"]: ctx.flow.port,
            names["x"]: _time(table, names["x"], arrived),
            names["X"]: _time(table, names["X"], now),
            names["g"]: ctx.flags & 0xFFFFFFFF,
            names["a"]: _text(self._attributes(ctx), _TEXT_MAX) if self._attrs else None,
        }
        for name in self._left_out:
            del row[name]
        return row

    def shared(self, row: dict[str, Value]) -> dict[str, Value]:
        """The part of *row* that the ACK's row repeats."""
        found: dict[str, Value] = {}
        for letter in SHARED:
            name = self._names[letter]
            if name in row:
                found[name] = row[name]
        return found

    def _attributes(self, ctx: Context) -> str:
        """``name="value",…`` of the attributes there are, oldest first; whole ones as far as the column takes them."""
        parts: list[str] = []
        room = _TEXT_MAX
        for name in self._attrs:
            for avp in _oldest_first(ctx.avps.find(name)):
                text = str(avp.value)
                if "\\" in text or '"' in text:
                    text = text.replace("\\", "\\\\").replace('"', '\\"')
                part = f'{name.name}="{text}"'
                if len(part) <= room:
                    parts.append(part)
                    room -= len(part) + 1
        return ",".join(parts)


def _oldest_first(found: list[Avp]) -> list[Avp]:
    return found if len(found) < 2 else found[::-1]


def _digest(ctx: Context) -> tuple[str, str]:
    """(username, realm) that module ``auth`` has verified in this request, "" when none."""
    if not ctx.notes:
        return "", ""
    note = ctx.notes.get(_AUTH_NOTE)
    if note is None:
        return "", ""
    return str(getattr(note, "username", "")), str(getattr(note, "realm", ""))


def _word(value: int | str | None) -> str | None:
    """An attribute as an id."""
    return None if value is None else _text(str(value), _ID_MAX)


def _text(text: str | None, limit: int) -> str | None:
    """*text* as the database can hold it, None for none."""
    if not text:
        return None
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if "\0" in text:
        text = text.replace("\0", "?")
    return text if len(text) <= limit else text[:limit]


def _time(table: str, column: str, seconds: float) -> Value:
    """*seconds* for a column of the schema, else their text: the drivers do not know the administrator's columns."""
    return int(seconds) if is_datetime(table, column) else time_text(seconds)
