"""XML-RPC: calls and answers as XML, and the HTTP around the answers. The marshalling is the standard library's.

A call with a document type is refused, so there are no entities to expand, and one with an encoding that is no superset
of ASCII before the XML parser sees it. Numbers that do not fit ``<i4>`` are sent as text.

Runs in: ctl (calls and answers), udp receiver (refusals). Locks: none.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Mapping
from typing import Any, Final
from xml.parsers.expat import ExpatError

from serpy.rpc.protocol import RpcFault

PARSE_ERROR: Final = -32700  # the numbers of the specification for fault code interoperability
BAD_CALL: Final = -32600
TOO_LARGE: Final = -32000
ANSWER_MAX: Final = 3_000_000  # bytes: less than may wait for the reader of one connection
NESTING_MAX: Final = 32
_I4_MIN: Final = -(2**31)
_I4_MAX: Final = 2**31 - 1
_CONTROL: Final = {code: "?" for code in range(32) if code not in (9, 10, 13)} | dict.fromkeys((0xFFFE, 0xFFFF), "?")
# What the standard library's parser raises for a document that is XML, or not even that, but no call.
_PARSE_FAILURES: Final = (
    ExpatError, xmlrpc.client.Error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip


def parse_call(body: bytes) -> tuple[str, list[object]]:
    """(method, parameters) of the call in *body*. Raises RpcFault."""
    if b"\0" in body or body[:2] in (b"\xff\xfe", b"\xfe\xff") or _has_declaration(body):
        raise RpcFault(PARSE_ERROR, "a document type or this encoding is not taken")
    try:
        params, method = _loads(body)
    except _PARSE_FAILURES:
        raise RpcFault(PARSE_ERROR, "not a well formed XML-RPC call") from None
    if not method:
        raise RpcFault(BAD_CALL, "the call names no method")
    return str(method), list(params)


def _loads(body: bytes) -> tuple[Any, str | None]:  # Any: what the standard library unmarshals
    target = xmlrpc.client.Unmarshaller(use_builtin_types=True)
    parser = xmlrpc.client.ExpatParser(target)
    expat = parser._parser  # type: ignore[attr-defined]  # the only way to have a document type refused
    expat.StartDoctypeDeclHandler = expat.EntityDeclHandler = _refuse
    parser.feed(body)
    parser.close()
    return target.close(), target.getmethodname()


def _refuse(*_declared: object) -> None:
    raise ValueError("a document type")


def _has_declaration(body: bytes) -> bool:
    """True for a document type, an entity, or an XML declaration with an encoding that hides them."""
    at = body.find(b"<!")
    while at >= 0:
        if not body.startswith((b"<!--", b"<![CDATA["), at):
            return True
        at = body.find(b"<!", at + 2)
    if not body.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"<?xml"):
        return False
    head = body[: body.find(b"?>") + 2].lower()
    encodings = [part.lstrip(b" \t\r\n=\"'") for part in head.split(b"encoding")[1:]]
    return not all(name.startswith((b"utf-8", b"us-ascii", b"ascii", b"iso-8859-1")) for name in encodings)


def build_answer(value: object, *, escape_cr: bool = True) -> bytes:
    """The document that returns *value*. Raises RpcFault when it is too large."""
    text = xmlrpc.client.dumps((_plain(value, NESTING_MAX),), methodresponse=True, encoding="utf-8")
    data = _encoded(text, escape_cr=escape_cr)
    if len(data) > ANSWER_MAX:
        raise RpcFault(TOO_LARGE, f"the answer has {len(data)} bytes: ask over the ctl socket")
    return data


def build_fault(code: int, text: str, *, escape_cr: bool = True) -> bytes:
    """The document that says what went wrong."""
    fault = xmlrpc.client.Fault(max(_I4_MIN, min(_I4_MAX, code)), text.translate(_CONTROL))
    return _encoded(xmlrpc.client.dumps(fault, methodresponse=True, encoding="utf-8"), escape_cr=escape_cr)


def _encoded(text: str, *, escape_cr: bool) -> bytes:
    if escape_cr:
        text = text.replace("\r", "&#xD;")  # a parser would make it a line feed
    return text.encode("utf-8", "replace")


def _plain(value: object, depth: int) -> Any:  # Any: the union of what the standard library marshals
    """*value* as XML-RPC can carry it."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if _I4_MIN <= value <= _I4_MAX else str(value)
    if isinstance(value, str):
        return value.translate(_CONTROL)
    if value is None or depth == 0:
        return ""
    if isinstance(value, Mapping):
        return {str(name).translate(_CONTROL): _plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    return str(value).translate(_CONTROL)


def http_response(status: int, reason: str, body: bytes, *, close: bool, kind: str = "text/xml") -> bytes:
    """A whole HTTP response."""
    connection = "close" if close else "keep-alive"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {connection}\r\n\r\n"
    )
    return head.encode("ascii", "replace") + body
