"""How serpyctl and the server talk: JSON in frames over a unix stream socket.

A frame is ``S`` ``1`` (protocol and version), the length of the JSON text (4 bytes, network order), the text. A request
is ``{"id", "method", "params"}``, the answer ``{"id", "result"}`` or ``{"id", "error": {"code", "text"}}``. The same socket
also takes BINRPC, whose first byte differs.

Runs in: ctl, serpyctl. Locks: none.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from serpy.errors import FramingError, SerpyError

MAGIC: Final = b"S1"
HEADER: Final = struct.Struct("!2sI")
MAX_REQUEST: Final = 1 << 20
MAX_REPLY: Final = 1 << 30  # a dump of a million bindings


class RpcFault(SerpyError):  # noqa: N818 - the word of XML-RPC and of all SER tools
    """The server refused or could not do it; *code* follows SIP's status codes."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} - {text}")
        self.code: Final = code
        self.text: Final = text


def frame(value: object) -> bytes:
    """One whole frame; text that came as undecodable bytes is escaped by JSON and comes back the same."""
    text = json.dumps(value, separators=(",", ":"), default=str).encode("ascii")
    return HEADER.pack(MAGIC, len(text)) + text


def frame_size(head: bytes, limit: int) -> int:
    """Bytes of JSON behind the header *head*. Raises FramingError: another protocol or version, or over *limit*."""
    magic, size = HEADER.unpack(head)
    if magic != MAGIC:
        raise FramingError("not a frame of this protocol version")
    if size > limit:
        raise FramingError(f"a frame of {size} bytes is over the limit of {limit}")
    return int(size)


def decode(text: bytes) -> dict[str, object]:
    """The object in a frame. Raises FramingError."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):  # RecursionError: brackets as deep as a frame is long
        raise FramingError("a frame does not hold JSON") from None
    if not isinstance(value, dict):
        raise FramingError("a frame does not hold an object")
    return value


def _no_number(word: str) -> object:
    raise ValueError(f"{word} is not JSON")  # RFC 8259 §6


def call(path: str, method: str, params: Sequence[object], timeout: float) -> object:
    """Call *method* of the server at socket *path* and return its result; *timeout* is for the whole call, in seconds.

    Raises RpcFault, and OSError when there is no server or it does not answer.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(frame({"id": 1, "method": method, "params": list(params)}))
        try:
            size = frame_size(_read(sock, HEADER.size, deadline), MAX_REPLY)
            answer = decode(_read(sock, size, deadline))
        except FramingError as exc:
            raise OSError(f"{path}: {exc}") from None
    error = answer.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        raise RpcFault(code if isinstance(code, int) else 500, str(error.get("text", "")))
    return answer.get("result")


def _read(sock: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the server did not answer in time")
        sock.settimeout(left)
        part = sock.recv(min(size - len(data), 1 << 20))
        if not part:
            raise ConnectionError("the server closed the connection")
        data += part
    return bytes(data)
