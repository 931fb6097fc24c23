"""acc_db: a row in ``acc`` for each accounted transaction, and one in ``missed_calls`` for each call that failed.

A transaction is accounted when its request has ``log_flag`` as it is made, and still has it when the answer goes
upstream; ``log_missed_flag`` likewise for missed calls. Rows travel through the ``store`` process and are kept here
until they are in the database, or, while that is away, in a journal: killing the store loses and doubles none. Killing a
receiver loses its last rows, of 10 ms (of up to some seconds while a database hangs that was well before); rows that
neither database nor journal can take are lost, counted and reported. Nothing of a call is kept here but its instant.

Runs in: udp receiver. Locks: none. RFC: none; SER's ``acc_db``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import (
    CALLS,
    CHARGES,
    FALSE,
    STORE,
    TRUE,
    Arg,
    AvpName,
    BackendError,
    CallService,
    ConfigError,
    Context,
    Exports,
    Function,
    Param,
    ProtocolError,
    Routes,
    Server,
    StoreService,
)
from serpy.context.avps import parse_avp_name
from serpy.db.frames import operation
from serpy.limited_log import LimitedLog
from serpy.modules.acc_db.row import ALL_LETTERS, LETTERS, Row
from serpy.sip.message import Request, Response

if TYPE_CHECKING:
    from serpy.db.frames import Fields
    from serpy.db.interface import Value
    from serpy.trust.charges import Charges

log = logging.getLogger(__name__)

EARLY_NOTE: Final = "acc_db.early"
ACK_WAIT_S: Final = 40.0  # how long the ACK of a 2xx is recognised; RFC 3261 gives it 64*T1
MAX_ACKS: Final = 50_000  # INVITEs whose ACK is still expected

AckKey = tuple[str, int, str, str]
"""(Call-ID, CSeq number, From tag, To tag)."""


class ExpectedAck:
    """An answered INVITE whose ACK is to be accounted; *shared* are the values its row takes over."""

    def __init__(self, shared: dict[str, Value], status: int, until: float) -> None:
        self.shared: Final = shared
        self.status: Final = status
        self.until: Final = until


class AccDb:
    """The module: parameters, what happens at the end of a transaction, script functions."""

    def __init__(self) -> None:
        self._reports: Final = LimitedLog(log)
        self.db_url = ""
        self.acc_table = "acc"
        self.mc_table = "missed_calls"
        self.log_flag = -1
        self.log_missed_flag = -1
        self.early_media = 0
        self.failed_transactions = 0
        self.report_cancels = 0
        self.report_ack = 0
        self.log_fmt = ALL_LETTERS
        self.attrs = ""
        self.fromuid_column = "from_uid"
        self.touid_column = "to_uid"
        self.todid_column = "to_did"
        self.fromdid_column = "from_did"
        self.from_column = "sip_from"
        self.to_column = "sip_to"
        self.status_column = "sip_status"
        self.method_column = "sip_method"
        self.iuri_column = "in_ruri"
        self.ouri_column = "out_ruri"
        self.fromuri_column = "from_uri"
        self.touri_column = "to_uri"
        self.callid_column = "sip_callid"
        self.cseq_column = "sip_cseq"
        self.diguser_column = "digest_username"
        self.digrealm_column = "digest_realm"
        self.fromtag_column = "from_tag"
        self.totag_column = "to_tag"
        self.src_ip_column = "src_ip"
        self.src_port_column = "src_port"
        self.reqtimestamp_column = "request_timestamp"
        self.restimestamp_column = "response_timestamp"
        self.flags_column = "flags"
        self.attrs_column = "attrs"
        self.server_id_column = "server_id"
        self.duration_column = ""
        self._server: Server  # set by init()
        self._store: StoreService | None = None
        self._charges: Charges | None = None
        self._calls: CallService | None = None
        self._row: Row  # set by init()
        self._log_bit = 0
        self._missed_bit = 0
        self._lost = -1
        self._expected: dict[AckKey, ExpectedAck] = {}

    def init(self, server: Server) -> None:
        """Check the parameters and ask to be told how flagged transactions end."""
        self._server = server
        self._log_bit = 1 << self.log_flag if self.log_flag >= 0 else 0
        self._missed_bit = 1 << self.log_missed_flag if self.log_missed_flag >= 0 else 0
        if self._log_bit and self._log_bit == self._missed_bit:
            raise ConfigError("log_flag and log_missed_flag are the same flag", hint="a missed call resets its flag")
        columns = {letter: str(getattr(self, parameter)) for letter, parameter, _, _ in LETTERS}
        columns["server_id"] = self.server_id_column
        if self.duration_column:
            columns["duration"] = self.duration_column
        if len(set(columns.values())) < len(columns):
            raise ConfigError("two accounting values share one column", hint="each _column parameter needs its own")
        self._row = Row(columns, self.log_fmt, _attributes(self.attrs), server.settings.server_id)
        self._lost = server.counters.declare("acc_db.lost", "accounting rows that the store could not take")
        self._charges = server.find(CHARGES)
        hooks = server.hooks
        hooks.watched_flags |= self._log_bit | self._missed_bit
        hooks.on_answer.append(self.answered)
        hooks.on_failed.append(self.failed)
        if self.report_ack:
            hooks.pre_script.append(self.acknowledged)

    # -- how transactions end

    def answered(
        self, ctx: Context, arrived: float, status: int, response: Response | None, to_tag: str, uri: str
    ) -> None:
        """A final answer, or 183, has gone upstream."""
        request = ctx.request
        if request is None:
            return
        if status >= 300:
            self.failed(ctx, arrived, status, response, to_tag, uri)
            if not self.failed_transactions:
                return
        if not ctx.flags & self._log_bit:
            return
        if status < 200 and not self._is_first_early_media(ctx):
            return
        if request.method == "CANCEL" and not self.report_cancels:
            return
        row = self._write(self.acc_table, ctx, request, arrived, status, response, to_tag, uri)
        if row is not None and self.report_ack and status // 100 == 2 and request.method == "INVITE":
            self._expect_ack(request, to_tag, row, status)

    def failed(
        self, ctx: Context, arrived: float, status: int, response: Response | None, to_tag: str, uri: str
    ) -> None:
        """Every branch of an INVITE has failed, or we have refused it: a missed call, once."""
        request = ctx.request
        if request is None or not ctx.flags & self._missed_bit or request.method != "INVITE":
            return
        ctx.flags &= ~self._missed_bit
        self._write(self.mc_table, ctx, request, arrived, status, response, to_tag, uri)

    def _is_first_early_media(self, ctx: Context) -> bool:
        if not self.early_media or EARLY_NOTE in ctx.notes:
            return False
        ctx.notes[EARLY_NOTE] = True
        return True

    # -- ACK, with report_ack only

    def _expect_ack(self, request: Request, to_tag: str, row: Fields, status: int) -> None:
        now = self._server.loop.now()
        expected = self._expected
        while expected:
            oldest = next(iter(expected))
            if expected[oldest].until > now and len(expected) < MAX_ACKS:
                break
            del expected[oldest]
        key = (request.call_id, request.cseq.number, request.from_tag, to_tag)
        expected[key] = ExpectedAck(self._row.shared(row), status, now + ACK_WAIT_S)

    def acknowledged(self, ctx: Context) -> bool:
        """Before the script: account the ACK of an accounted INVITE. Always True, the script goes on."""
        request = ctx.request
        if request is None or request.method != "ACK" or not self._expected:
            return True
        try:
            key = (request.call_id, request.cseq.number, request.from_tag, request.to_tag)
        except ProtocolError:
            return True
        expected = self._expected.pop(key, None)
        if expected is not None and expected.until > ctx.clock.now():
            row = self._row.make(
                self.acc_table, ctx, request, ctx.arrived_at, expected.status, None, request.to_tag, request.request_uri,
                ctx.wall_now,
            )  # fmt: skip
            self._send(self.acc_table, self._row.sharing(row, expected.shared))
        return True

    # -- script

    def acc_db_log(self, ctx: Context, status: int = 0) -> int:
        """Write a row about this request to the accounting table now, with *status* if given."""
        return self._log_now(self.acc_table, ctx, status)

    def acc_db_missed(self, ctx: Context, status: int = 0) -> int:
        """Write a row about this request to the table of missed calls now, with *status* if given."""
        return self._log_now(self.mc_table, ctx, status)

    def _log_now(self, table: str, ctx: Context, status: int) -> int:
        request = ctx.request
        if request is None:
            return FALSE
        if request.method == "CANCEL" and not self.report_cancels:
            return TRUE
        try:
            tag = request.to_tag
        except ProtocolError:
            return FALSE
        row = self._write(table, ctx, request, ctx.arrived_at, status, None, tag, ctx.request_uri)
        return FALSE if row is None else TRUE

    # -- rows

    def _write(
        self, table: str, ctx: Context, request: Request, arrived: float, status: int, response: Response | None,
        to_tag: str, uri: str,
    ) -> Fields | None:  # fmt: skip
        """Make a row and hand it to the store; None when that failed, or when a stranger has caused too many already."""
        charges = self._charges
        if charges is not None and status >= 300 and not charges.allows_row(ctx):
            return None
        is_timed = self.duration_column != "" and table == self.acc_table
        row = self._row.make(
            table, ctx, request, arrived, status, response, to_tag, uri, self._server.loop.wall_now(),
            is_timed=is_timed, lasted=self._duration(ctx, request, status) if is_timed else None,
        )  # fmt: skip
        return row if self._send(table, row) else None

    def _duration(self, ctx: Context, request: Request, status: int) -> int | None:
        """How long the call has lasted that *request* ends, in seconds; None when it ends none, or nobody knows."""
        if request.method != "BYE" or status // 100 != 2 or not ctx.dialog:
            return None
        calls = self._calls
        if calls is None:
            calls = self._calls = self._server.find(CALLS)
        seconds = -1 if calls is None else calls.duration(ctx.dialog, self._server.loop.wall_now())
        return seconds if seconds >= 0 else None

    def _send(self, table: str, row: Fields) -> bool:
        store = self._store
        if store is None:
            store = self._store = self._server.bind(STORE)
        try:
            store.write([operation("insert", table, row)], wait=False, url=self.db_url)
        except BackendError as exc:
            self._server.counters.add(self._lost)
            # At most once a second: under overload every call would say so.
            self._reports.error("acc_db", "an accounting row is lost: %s", exc)
            return False
        return True


def _attributes(text: str) -> list[AvpName]:
    """The names in the parameter ``attrs``. Raises ConfigError."""
    found: list[AvpName] = []
    for part in text.split(","):
        word = part.strip(" \t")
        if not word:
            continue
        try:
            found.append(parse_avp_name(word))
        except ValueError as exc:
            raise ConfigError(f"attrs: {exc}", hint='attrs = "$t.account, $f.rate"') from None
    return found


def _check_letters(value: object) -> str:
    wrong = sorted(set(str(value)) - set(ALL_LETTERS))
    if wrong:
        return f"unknown letter {wrong[0]!r}; there are {ALL_LETTERS}"
    return "" if value else "must name at least one value"


def exports() -> Exports:
    """A fresh instance of the module."""
    module = AccDb()
    routes = Routes.REQUEST | Routes.FAILURE
    columns = tuple(
        Param(parameter, "str", column, f"column: {text} (log_fmt {letter})")
        for letter, parameter, column, text in LETTERS
    )
    return Exports(
        name="acc_db",
        module=module,
        functions=(
            Function("acc_db_log", module.acc_db_log, (Arg.INT,), 1, routes, "write a row to the accounting table now"),
            Function(
                "acc_db_missed", module.acc_db_missed, (Arg.INT,), 1, routes, "write a row to the missed calls now"
            ),
        ),
        params=(
            Param("db_url", "str", "", "database with the accounting tables"),
            Param("acc_table", "str", "acc", "table of accounted transactions"),
            Param("mc_table", "str", "missed_calls", "table of missed calls"),
            Param("log_flag", "flag", -1, "flag of requests to account"),
            Param("log_missed_flag", "flag", -1, "flag of calls to write to the missed calls when they fail"),
            Param("early_media", "int", 0, "account the first 183, too"),
            Param("failed_transactions", "int", 0, "account answers from 300 on, too"),
            Param("report_cancels", "int", 0, "account CANCEL, too"),
            Param("report_ack", "int", 0, "account the ACK to a 2xx, too"),
            Param("log_fmt", "str", ALL_LETTERS, "which values to write, one letter each", check=_check_letters),
            Param("attrs", "str", "", 'attributes to write as name="value", separated by commas'),
            Param("server_id_column", "str", "server_id", "column: this server's id"),
            Param(
                "duration_column", "str", "", "column: seconds from answer to BYE, in the row of the BYE; empty: none"
            ),
            *columns,
        ),
        init=module.init,
    )
