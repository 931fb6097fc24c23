"""What a message looks like in the environment of a program: ``SIP_RURI``, ``SIP_HF_FROM`` and the like.

Values are a peer's text as received, but for controls, which are spaces. They are data for the program: an expansion that the shell reads again (``eval``,
an unquoted ``$SIP_HF_FROM``) is the script's own mistake.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from serpy.api import Context, ParseError
from serpy.sip.message import Message
from serpy.sip.text import without_controls
from serpy.sip.uri import parse_uri

MAX_VALUE: Final = 60_000  # bytes; the kernel takes 128 KiB for one variable
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def environment_of(ctx: Context, *, with_message: bool) -> dict[bytes, bytes]:
    """Our own environment, and with *with_message* what ``ctx`` is about."""
    found = dict(os.environb)
    if with_message:
        for name, value in variables_of(ctx).items():
            found[name.encode("ascii")] = as_bytes(without_controls(value))
    return found


def variables_of(ctx: Context) -> dict[str, str]:
    """The ``SIP_*`` variables of the request of *ctx*."""
    message: Message = ctx.request if ctx.request is not None else ctx.message
    found = {
        "SIP_SRCIP": ctx.flow.host,
        "SIP_RURI": ctx.request_uri,
        "SIP_USER": _user(ctx.request_uri),
        "SIP_ORURI": "",
        "SIP_OUSER": "",
        "SIP_TID": _transaction_id(message),
        "SIP_DID": "",
    }
    if ctx.request is not None:
        found["SIP_ORURI"] = ctx.request.request_uri
        found["SIP_OUSER"] = _user(ctx.request.request_uri)
    try:
        found["SIP_DID"] = message.to_tag
    except ParseError:
        found["SIP_DID"] = ""
    for index, name in enumerate(message.names):
        variable = header_variable(name)
        value = message.value(index)
        found[variable] = f"{found[variable]},{value}" if variable in found else value
    return found


def header_variable(name: str) -> str:
    """``SIP_HF_`` and the long name in capitals, with ``_`` for everything but letters and digits."""
    return "SIP_HF_" + "".join(char.upper() if char in _LETTERS else "_" for char in name)


def as_bytes(text: str) -> bytes:
    """*text* as a program may get it: as received, without NUL, of bounded length."""
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"?")[:MAX_VALUE]


def _user(uri: str) -> str:
    try:
        return parse_uri(uri).user
    except ParseError:
        return ""


def _transaction_id(message: Message) -> str:
    """The same for each repetition of a request."""
    names = ("via", "to", "from", "call-id", "cseq")
    text = "\n".join((message.start_line, *(message.get(name) or "" for name in names)))
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
