"""``uri``, ``src_ip``, ``msg:len`` … as code.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.script import tree
from serpy.script.code import Code, constant, integer, string
from serpy.script.coder import Coder
from serpy.script.exports import Routes

ADDRESSES: Final = {
    "src_ip": "ctx.flow.host", "dst_ip": "ctx.flow.listener.host", "to_ip": "out_host(ctx)",
    "snd_ip": "out_listener_host(ctx)",
}  # fmt: skip
_OPERANDS: Final[dict[str, Code]] = {
    "method": string("ctx.message.method"), "from_uri": string("from_uri(ctx)"), "to_uri": string("to_uri(ctx)"),
    "src_port": integer("ctx.flow.port"), "dst_port": integer("ctx.flow.listener.port"),
    "to_port": integer("out_port(ctx)"), "snd_port": integer("out_listener_port(ctx)"),
    "proto": string("ctx.flow.transport"), "snd_proto": string("out_transport(ctx)"),
    "af": integer('(10 if ":" in ctx.flow.host else 2)'), "snd_af": integer('(10 if ":" in out_host(ctx) else 2)'),
    "max_len": constant(65535), **{name: string(code) for name, code in ADDRESSES.items()},
}  # fmt: skip
_ONSEND_ONLY: Final = ("to_ip", "to_port", "snd_ip", "snd_port", "snd_proto", "snd_af")


def core_operand(coder: Coder, node: tree.Core) -> Code:
    """The code that reads a core operand where this route may run."""
    name = node.name
    if name in _ONSEND_ONLY and coder.kinds & ~Routes.ONSEND:
        hint = "elsewhere nobody knows yet where it will go"
        coder.fault(node.position, f"{name} exists only in onsend_route", hint)
    if name in ("uri", "status"):
        return string("uri_or_status(ctx)" if coder.kinds & Routes.ONREPLY else "ctx.request_uri")
    if name == "msg:len":
        return integer("message_length(ctx)" if coder.kinds & Routes.ONSEND else "len(ctx.message.raw)")
    if name == "myself":
        coder.fault(node.position, "'myself' can only be compared", "for example: uri == myself")
        return integer("0")
    return _OPERANDS[name]
