"""Answer a request without keeping anything about it, and recognise the ACK to such an answer.

The To tag is a keyed hash of what request and ACK have in common, so it is the same for a repeated request and the
ACK that carries it needs no memory: for 32 s after the last stateless final, an ACK with the tag we would make is ours.
It is Python's own ``hash()`` (SipHash, keyed per server start): a tag has to be unique and hard to guess, it vouches
for nothing. The secret in front of the text keeps the hashes of strings that strangers can put into our tables to us.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.2.6, §8.2.7, §18.2.2; 3581.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from serpy.context.context import Context
from serpy.errors import ParseError, TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Request
from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_reply
from serpy.transaction.forward import received_value, reply_flow, rport_value
from serpy.transaction.matching import NO_GROUPS, Groups
from serpy.transaction.warning import warning_line

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

ACK_WINDOW_S: Final = 32.0  # 64*T1: as long as a client may repeat its ACK
SMALL: Final = 512  # octets of an answer that anybody gets
AMPLIFIES: Final = 2  # a larger one has so many times the octets of its request at most, where its source may be forged
TAG: Final = "s."  # how our To tags begin, so that those of others need no hash to be told apart
TAG_BITS: Final = 0xFFFFFFFFFFFFFFF


class StatelessReplies:
    """Stateless answers of one process. *secret* is the same in all children of one server start, *clock* gives the
    present instant.
    """

    def __init__(self, secret: bytes, send: Callable[[Outgoing], None], clock: Callable[[], float]) -> None:
        self._secret: Final = secret[:8].hex()
        self._clock: Final = clock
        self.send: Final = send
        self.signature: list[str] = []  # header lines of every answer: Server
        self.warns = 0  # sip_warning: our process id, 0 = off
        self.reply_to_via = False
        self.groups: Groups = NO_GROUPS
        self.is_proven: Callable[[Flow], bool] | None = None  # does the peer receive what we send there
        self.acks_until = 0.0  # no ACK can be ours after this instant
        # statistics
        self.sent: int = 0
        self.failed: int = 0
        self.acks: int = 0
        self.withheld: int = 0  # answers that would have been too large for their request
        self.by_class: Final[list[int]] = [0] * 7

    def _may_be_forged(self, flow: Flow) -> bool:
        is_proven = self.is_proven
        return flow.transport == "udp" and is_proven is not None and not is_proven(flow)

    def tag(self, request: Request) -> str:
        """The To tag of our answers to *request*."""
        try:
            text = f"{self._secret} {request.call_id} {request.from_tag} {request.cseq.number} {request.via.branch}"
        except ParseError:  # being refused for just that
            text = f"{self._secret} {request.get('call-id')} {request.get('from')}"
        value: i64 = hash(text)
        number: int = value & TAG_BITS
        return f"{TAG}{number}"

    def absorbs(self, ack: Request) -> bool:
        """True for an ACK to a stateless final of ours."""
        if self._clock() > self.acks_until:
            return False
        tag = ack.to_tag
        if not tag.startswith(TAG) or tag != self.tag(ack):
            return False
        self.acks += 1
        return True

    def reply(self, ctx: Context, status: int, reason: str, headers: Sequence[str] = (), body: bytes = b"") -> bool:
        """Answer the request of *ctx*; False for an ACK, after a final answer, and when it could not be sent."""
        request = ctx.request
        if request is None or ctx.final_sent or request.method == "ACK":
            return False
        lines: Sequence[str] = ctx.reply_headers
        if not lines:
            lines = headers
        elif headers:
            lines = [*lines, *headers]
        sent = self.answer(
            request, ctx.flow, status, reason, lines, body, to_source=ctx.reply_to_source,
            out_uri=ctx.request_uri,
        )  # fmt: skip
        if sent and status >= 200:
            ctx.final_sent = True
        return sent

    def answer(
        self, request: Request, flow: Flow, status: int, reason: str, headers: Sequence[str], body: bytes, *,
        to_source: bool, out_uri: str = "",
    ) -> bool:  # fmt: skip
        """Send the answer. What of *request* cannot be read is given back as it came; without a readable Via the answer
        goes to where the request came from.
        """
        try:
            to_tag = request.to_tag
        except ParseError:
            to_tag = ""
        received, rport, target = "", 0, flow
        try:
            via = request.via
            received = received_value(via, flow, to_source=to_source)
            rport = rport_value(via, flow, to_source=to_source)
            target = reply_flow(request, flow, to_source=to_source, to_via=self.reply_to_via, groups=self.groups)
        except ParseError:
            pass
        if self.warns:
            headers = [*headers, warning_line(request, flow, out_uri, self.warns)]
        if not to_tag and status != 100:
            to_tag = self.tag(request)
        lines = self.signature.copy()
        lines.extend(headers)
        data = build_reply(
            request, status, reason or reason_phrase(status), to_tag=to_tag,
            headers=lines, body=body, received=received, rport=rport,
        )  # fmt: skip
        if len(data) > SMALL and len(data) > AMPLIFIES * len(request.raw) and self._may_be_forged(flow):
            self.withheld += 1
            return False
        try:
            self.send(Outgoing(data, target))
        except TransportError:
            self.failed += 1
            return False
        self.sent += 1
        self.by_class[min(status // 100, 6)] += 1
        if status >= 200 and request.method == "INVITE":
            self.acks_until = self._clock() + ACK_WINDOW_S
        return True


def redirect_contacts(ctx: Context) -> list[str]:
    """The Contact lines of a 3xx answer: the current Request-URI and the appended branches (RFC 3261 §21.3)."""
    lines: list[str] = []
    if not (ctx.uri_consumed and ctx.branches):
        lines.append(contact_line(ctx.request_uri, ctx.q))
    for target in ctx.branches:
        lines.append(contact_line(target.request_uri, target.q))
    return lines


def contact_line(uri: str, q: int) -> str:
    """A Contact header line; *q* is 0..1000 or -1 for none."""
    if q < 0:
        return f"Contact: <{uri}>"
    return f"Contact: <{uri}>;q={q // 1000}.{q % 1000:03d}"
