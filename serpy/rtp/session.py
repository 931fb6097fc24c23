"""Which session of a media proxy a message belongs to, and whether its description offers or answers.

Runs in: udp receiver. Locks: none. RFC: 3261 §13.2.1, 3262 §5, 3264, 3311.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from serpy.sip.message import Message, Request, Response

if TYPE_CHECKING:
    from serpy.context.context import Context

OFFER: Final = 1
ANSWER: Final = 2
NOTHING: Final = 0
_LATE_MAX: Final = 20_000

# A tag or Call-ID stands between spaces and semicolons of a command; one that has such characters cannot be sent.
_BAD: Final = frozenset("".join(chr(code) for code in range(33)) + ";,\x7f")
_NAME_MAX: Final = 512


class Names:
    """Call-ID and tags as the media proxy knows them: *from_tag* is that of who made the offer."""

    def __init__(self, call_id: str, from_tag: str, to_tag: str) -> None:
        self.call_id: Final = call_id
        self.from_tag: Final = from_tag
        self.to_tag: Final = to_tag


def names_of(message: Message, *, is_answer: bool) -> Names | None:
    """The names of *message*'s session; None when one cannot be sent. Raises ParseError.

    The tags change places when the callee offers (in a reply to an INVITE without description) or the caller
    answers that (in ACK or PRACK).
    """
    from_tag, to_tag = message.from_tag, message.to_tag
    if isinstance(message, Request) == is_answer:
        from_tag, to_tag = to_tag, from_tag
    call_id = message.call_id
    if not from_tag or not (_is_clean(call_id) and _is_clean(from_tag) and _is_clean(to_tag)):
        return None
    return Names(call_id, from_tag, to_tag)


def names_to_end(message: Message) -> Names | None:
    """The names for ending the session; the tags stand as in the message. Raises ParseError."""
    names = Names(message.call_id, message.from_tag, message.to_tag)
    if not names.from_tag or not (_is_clean(names.call_id) and _is_clean(names.from_tag) and _is_clean(names.to_tag)):
        return None
    return names


def _is_clean(text: str) -> bool:
    return len(text) <= _NAME_MAX and _BAD.isdisjoint(text)


class Directions:
    """Tells offers from answers; remembers the calls whose offer came in a reply until the caller has answered.

    All messages of a Call-ID come through one process, so its own memory is enough.
    """

    def __init__(self) -> None:
        self._late: Final[OrderedDict[str, bool]] = OrderedDict()

    def of(self, ctx: Context) -> int:
        """OFFER, ANSWER, or NOTHING for a message whose description has no business here. Raises ParseError."""
        message = ctx.message
        if isinstance(message, Request):
            return self._of_request(message)
        assert isinstance(message, Response)
        if message.method == "INVITE" and self._is_offer_in_reply(ctx, message):
            self._late[message.call_id] = True
            if len(self._late) > _LATE_MAX:
                self._late.popitem(last=False)
            return OFFER
        return ANSWER

    def _of_request(self, request: Request) -> int:
        method = request.method
        if method in {"INVITE", "UPDATE"}:
            return OFFER
        if method == "ACK":
            self._late.pop(request.call_id, None)
            return ANSWER
        if method == "PRACK":
            return ANSWER if self._late.pop(request.call_id, False) else OFFER
        return NOTHING

    @staticmethod
    def _is_offer_in_reply(ctx: Context, response: Response) -> bool:
        request = ctx.request
        return request is not None and request is not ctx.message and not request.body and response.status < 300
