"""Core operands as compiled routes read them: what the message, its source and its way out say.

Everything here is hot. What needs the server is in ``hooks``.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.context.avps import AvpName
from serpy.context.context import ONSEND, Context
from serpy.errors import ParseError

MAX_DEPTH: Final = 100  # nested route() calls


def is_reply(ctx: Context) -> bool:
    """True when the script works on a response; a failure route knows one but works on the request."""
    response = ctx.response
    return response is not None and ctx.message is response


def uri_or_status(ctx: Context) -> str:
    """``uri`` (of a request) and ``status`` (of a reply) are one operand."""
    response = ctx.response
    return ctx.request_uri if response is None or not is_reply(ctx) else str(response.status)


def from_uri(ctx: Context) -> str:
    """The From URI; "" when it cannot be parsed."""
    try:
        return ctx.message.from_.uri_text
    except ParseError:
        return ""


def to_uri(ctx: Context) -> str:
    """The To URI; "" when it cannot be parsed."""
    try:
        return ctx.message.to.uri_text
    except ParseError:
        return ""


def message_length(ctx: Context) -> int:
    """``msg:len``: of what leaves in an onsend route, else of what came in."""
    return len(ctx.out_data) if ctx.kind == ONSEND else len(ctx.message.raw)


def out_host(ctx: Context) -> str:
    """``to_ip``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.host


def out_port(ctx: Context) -> int:
    """``to_port``."""
    flow = ctx.out_flow
    return 0 if flow is None else flow.port


def out_listener_host(ctx: Context) -> str:
    """``snd_ip``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.listener.host


def out_listener_port(ctx: Context) -> int:
    """``snd_port``."""
    flow = ctx.out_flow
    return 0 if flow is None else flow.listener.port


def out_transport(ctx: Context) -> str:
    """``snd_proto``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.transport


def avp_flag_set(ctx: Context, name: AvpName, bits: int) -> bool:
    """``isavpflagset``: any matching value has the flag."""
    for avp in ctx.avps.find(name):  # noqa: SIM110 - no generator on the hot path
        if avp.flags & bits:
            return True
    return False


def method_of(ctx: Context) -> str:
    """The request's method, the CSeq method of a reply."""
    response = ctx.response
    if response is not None and is_reply(ctx):
        return response.method
    request = ctx.request
    return "" if request is None else request.method
