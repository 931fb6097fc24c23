"""One accounting row: what the columns hold, and in which letters of ``log_fmt`` they are chosen.

Texts are cut at the lengths of SER's tables (database.md, ``acc``) and made storable, so that no peer can write a
message whose row the database refuses. Times are UTC.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Avp, AvpName, Context
from serpy.context.avps import FROM_USER, TO_USER, TRACK_FROM, TRACK_TO
from serpy.db.frames import Fields
from serpy.db.schema import is_datetime
from serpy.db.sql import time_text
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
_ORDER: Final = "IUDMftSmioFTcnuRrdpPxXga"  # of the values in a row
_ALWAYS: Final = "xX"  # the tables do without none of these
# What the ACK of an accounted INVITE shares with it.
SHARED: Final = "IUDMuRga"

_ID_MAX: Final = 64
_TEXT_MAX: Final = 255
_TAG_MAX: Final = 128
_METHOD_MAX: Final = 16


class Row:
    """Makes rows with the administrator's columns: *columns* by letter, *letters* to fill, *attrs* to list."""

    def __init__(self, columns: Mapping[str, str], letters: str, attrs: list[AvpName], server_id: int) -> None:
        names = [columns["server_id"], *[columns[letter] for letter in _ORDER]]
        left_out = [columns[letter] for letter in ALL_LETTERS if letter not in letters and letter not in _ALWAYS]
        self._kept: Final[list[int]] = [at for at, name in enumerate(names) if name not in left_out]
        self._keeps_all: Final = len(self._kept) == len(names)
        self._columns: Final[tuple[str, ...]] = tuple([names[at] for at in self._kept])
        duration = columns.get("duration")
        self._timed_columns: Final = self._columns if duration is None else (*self._columns, duration)
        self._shared: Final[list[str]] = [columns[letter] for letter in SHARED]
        self._times: Final = (columns["x"], columns["X"])
        self._attrs: Final[list[AvpName]] = attrs
        self._server_id: Final = server_id
        self._tables: Final[dict[str, bool]] = {}  # does the schema know both times of the table?

    def make(
        self, table: str, ctx: Context, request: Request, arrived: float, status: int, response: Response | None,
        to_tag: str, uri: str, now: float, *, is_timed: bool = False, lasted: int | None = None,
    ) -> Fields:  # fmt: skip
        """The row for *request*. *status* 0 = none; *response* None = an answer of our own, with *to_tag*. *is_timed*: with
        the seconds that a call has *lasted*.
        """
        avps = ctx.avps
        to_value = request.get("to") if response is None else response.get("to")
        username, realm = _digest(ctx)
        known = self._tables.get(table)
        if known is None:
            known = self._tables[table] = all(is_datetime(table, column) for column in self._times)
        values: list[Value] = [  # in the order of _ORDER
            self._server_id,
            _word(avps.newest(FROM_USER, "uid")),
            _word(avps.newest(TO_USER, "uid")),
            _word(avps.search("did", TRACK_TO)),
            _word(avps.search("did", TRACK_FROM)),
            _text(request.get("from"), _TEXT_MAX),
            _text(to_value, _TEXT_MAX),
            status or None,
            _text(request.method, _METHOD_MAX),
            _text(request.request_uri, _TEXT_MAX),
            _text(uri, _TEXT_MAX),
            _text(request.from_.uri_text, _TEXT_MAX),
            _text(request.to.uri_text, _TEXT_MAX),
            _text(request.call_id, _TEXT_MAX),
            request.cseq.number,
            _text(username, _ID_MAX),
            _text(realm, _TEXT_MAX),
            _text(request.from_tag, _TAG_MAX),
            _text(to_tag, _TAG_MAX),
            ctx.flow.host,
            ctx.flow.port,
            # Times as text where the drivers do not know the administrator's table or columns.
            int(arrived) if known else time_text(arrived),
            int(now) if known else time_text(now),
            ctx.flags & 0xFFFFFFFF,
            _text(self._attributes(ctx), _TEXT_MAX) if self._attrs else None,
        ]
        if not self._keeps_all:
            values = [values[at] for at in self._kept]
        if not is_timed:
            return Fields(self._columns, tuple(values))
        values.append(lasted)
        return Fields(self._timed_columns, tuple(values))

    def shared(self, row: Fields) -> dict[str, Value]:
        """The part of *row* that the ACK's row repeats."""
        return {name: row[name] for name in self._shared if name in row.columns}

    def sharing(self, row: Fields, shared: Mapping[str, Value]) -> Fields:
        """*row* with the values of the INVITE's row that it repeats."""
        return Fields(row.columns, tuple([shared[name] if name in shared else row[name] for name in row.columns]))

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
    """(username, realm) that were verified in this request, "" when none."""
    found = ctx.authenticated
    return (found.username, found.realm) if found is not None else ("", "")


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
