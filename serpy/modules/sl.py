"""sl: answer a request without a transaction, or through the one it has.

The work is done in ``serpy.transaction.answers``; this is its script face, and the ``ReplyService`` other modules
answer with. An ACK to an answer sent here never reaches the script: the pipeline swallows it by its To tag.

Runs in: udp receiver; RPC in ctl. Locks: none. RFC: 3261 §8.2.6, §8.2.7.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from serpy.api import (
    ANSWERS,
    FALSE,
    REPLIES,
    TRUE,
    Arg,
    Context,
    Exports,
    Function,
    Param,
    Routes,
    Rpc,
    Server,
)
from serpy.context.hooks import call_all
from serpy.transaction.answers import Answers
from serpy.transaction.forward import outward_status
from serpy.transaction.stateless import redirect_contacts
from serpy.transaction.statistics import SL

if TYPE_CHECKING:
    from serpy.shm.counters import Counters

NAME: Final = "sl"

log = logging.getLogger(__name__)


class Sl:
    """The module of one process."""

    def __init__(self) -> None:
        self.default_code = 500
        self.default_reason = "Internal Server Error"
        self.bind_tm = 1
        self.server: Server | None = None
        self._answers: Answers | None = None
        self._counters: Counters | None = None

    def init(self, server: Server) -> None:
        """In the master: offer the service."""
        self.server = server
        server.provide(REPLIES, self)
        self._counters = server.counters

    def _bound(self) -> Answers:
        """The answers of this process; looked up once, because the pipeline is made after the modules."""
        answers = self._answers
        if answers is None:
            assert self.server is not None
            answers = self._answers = self.server.bind(ANSWERS)
        return answers

    def reply(
        self, ctx: Context, status: int, reason: str = "", headers: Sequence[str] = (), body: bytes = b""
    ) -> bool:
        """See ``serpy.api.ReplyService``."""
        request = ctx.request
        if request is None or request.method == "ACK":
            return False
        answers = self._bound()
        if 300 <= status < 400 and not any(line[:8].lower() == "contact:" for line in headers):
            headers = [*headers, *redirect_contacts(ctx)]
        if status == 404 or status == 403:  # noqa: PLR1714 - faster
            assert self.server is not None
            call_all(self.server.hooks.on_refused, ctx, status)
        if self.bind_tm:
            return answers.answer(ctx, status, reason, headers, body)
        return answers.replies.reply(ctx, status, reason, headers, body)

    def sl_reply(self, ctx: Context, status: str | int | None = None, reason: str | int | None = None) -> int:
        """Script face of ``reply``: -1 for an ACK or when nothing could be sent."""
        code = _status(status)
        if code == 0:
            code = self.default_code
        text = self.default_reason if status is None else ""
        if reason is not None:
            text = str(reason)
        return TRUE if self.reply(ctx, code, text) else FALSE

    def sl_reply_error(self, ctx: Context) -> int:
        """Answer what the last core error deserves: a status of the RFCs, the error itself goes into the log."""
        status = outward_status(ctx.last_error)
        log.debug("core error %d is answered %d", ctx.last_error, status)
        return TRUE if self.reply(ctx, status) else FALSE

    def stats(self) -> dict[str, int]:
        """Stateless replies by class, and the ACKs to them."""
        if self._counters is None:
            return {}
        values = self._counters.snapshot()
        return {name.removeprefix("sl."): values.get(name, 0) for name in (each.name for each in SL)}


# What scripts answer most, as they write it.
_USUAL: Final[dict[str | None, int]] = {
    str(status): status for status in (200, 302, 400, 401, 403, 404, 407, 480, 481, 483, 486, 500, 503)
}


def _status(value: str | int | None) -> int:
    """A status given as number or text, 0 when it is none."""
    if isinstance(value, int):
        return value if 100 <= value <= 699 else 0
    if value in _USUAL:
        return _USUAL[value]
    if value is not None and len(value) == 3 and value.isascii() and value.isdigit() and value >= "100":
        return int(value)
    return 0


def exports() -> Exports:
    """A fresh instance of the module."""
    module = Sl()
    reply_args = (Arg.STATUS, Arg.REASON)
    anywhere = Routes.REQUEST | Routes.FAILURE | Routes.EVENT
    return Exports(
        name=NAME,
        module=module,
        functions=(
            Function("sl_reply", module.sl_reply, reply_args, 2, anywhere, "answer the request"),
            Function("sl_send_reply", module.sl_reply, reply_args, 2, anywhere, "answer the request"),
            Function("send_reply", module.sl_reply, reply_args, 2, anywhere, "answer the request"),
            Function("sl_reply_error", module.sl_reply_error, (), 0, anywhere, "answer the last core error"),
            Function("send_reply_error", module.sl_reply_error, (), 0, anywhere, "answer the last core error"),
        ),
        params=(
            Param("default_code", "int", 500, "status of a reply without one"),
            Param("default_reason", "str", "Internal Server Error", "reason of a reply without one"),
            Param("bind_tm", "int", 1, "reply through the request's transaction when it has one"),
        ),
        rpc=(Rpc("sl.stats", module.stats),),
        init=module.init,
    )
