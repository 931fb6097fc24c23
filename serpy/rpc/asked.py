"""What ctl asks a receiver, by name and with values, and the answer: RPC_CALL and RPC_RESULT.

Runs in: ctl (Questions), udp receiver (Answers). Locks: none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, UsageError
from serpy.net.handoff import RPC_CALL, RPC_RESULT, PayloadError, register

if TYPE_CHECKING:
    from serpy.api import Server

ANSWER_S: Final = 2.0
_TICKET: Final = 4


def encode_call(ticket: int, name: str, arguments: list[object]) -> bytes:
    """The payload of RPC_CALL."""
    return encode_result(ticket, [name, arguments])


def decode_call(payload: bytes) -> tuple[int, str, list[object]]:
    """(ticket, name, arguments) of such a payload. Raises PayloadError."""
    ticket, value = decode_result(payload)
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], list)):
        raise PayloadError("no call")
    return ticket, str(value[0]), value[1]


def encode_result(ticket: int, value: object) -> bytes:
    """The payload of RPC_RESULT."""
    return ticket.to_bytes(_TICKET, "big") + json.dumps(value).encode("ascii")


def decode_result(payload: bytes) -> tuple[int, object]:
    """(ticket, value) of such a payload. Raises PayloadError."""
    try:
        return int.from_bytes(payload[:_TICKET], "big"), json.loads(payload[_TICKET:])
    except ValueError as exc:
        raise PayloadError(f"no JSON: {exc}") from None


register(RPC_CALL, encode_call, decode_call)
register(RPC_RESULT, encode_result, decode_result)


class Questions:
    """The side of ctl."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        server.channels.on(RPC_RESULT, self._answered)

    def ask(self, slot: int, name: str, arguments: list[object]) -> object:
        """The answer of the process in *slot*; parks for it. Raises BackendError."""
        loop = self._server.loop
        ticket = loop.new_ticket()
        if not self._server.channels.send(slot, RPC_CALL, encode_call(ticket.id, name, arguments)):
            loop.drop(ticket)
            raise BackendError("the receiver cannot be reached")
        answer = loop.wait(ticket, loop.now() + ANSWER_S)
        if answer is None:
            raise BackendError("the receiver does not answer")
        return answer

    def _answered(self, payload: bytes, _from_slot: int) -> None:
        ticket, value = decode_result(payload)
        self._server.loop.resume(ticket, value)


class Answers:
    """The side of a receiver: what it can be asked."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        self._functions: Final[dict[str, Callable[..., object]]] = {}
        server.channels.on(RPC_CALL, self._asked)

    def on(self, name: str, function: Callable[..., object]) -> None:
        """Answer *name* with what *function* returns. Raises UsageError when somebody does already."""
        if name in self._functions:
            raise UsageError(f"{name} is answered already")
        self._functions[name] = function

    def _asked(self, payload: bytes, from_slot: int) -> None:
        ticket, name, arguments = decode_call(payload)
        function = self._functions.get(name)
        if function is None:
            raise PayloadError(f"nobody here answers {name:.40}")
        # Who asks has a deadline: an answer that finds no room is counted by the channel.
        self._server.channels.send(from_slot, RPC_RESULT, encode_result(ticket, function(*arguments)))
