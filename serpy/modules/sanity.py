"""Checks of a request that go further than parsing: what a strict server refuses, each behind a bit.

A failed check is answered here (400, 416, 420, 505 …) through ReplyService; ACK is never answered. Then the script
ends (``autodrop`` 1) or the function is false (``autodrop`` 0).

Runs in: udp receiver. Locks: none. RFC: 3261 §8.1.1, §8.2, §16.3.
"""

from __future__ import annotations

from typing import Final

from serpy.api import (
    FALSE,
    REPLIES,
    STOP,
    TRUE,
    Arg,
    Context,
    Exports,
    Function,
    Param,
    ParseError,
    ReplyService,
    Routes,
    Server,
)
from serpy.sip.abnf import ascii_lower, parse_number, split_option_tags
from serpy.sip.message import Message, Request
from serpy.sip.uri import parse_uri

RURI_VERSION: Final = 1
RURI_SCHEME: Final = 2
REQUIRED: Final = 4
VIA_VERSION: Final = 8
VIA_PROTOCOL: Final = 16
CSEQ_METHOD: Final = 32
CSEQ_VALUE: Final = 64
CONTENT_LENGTH: Final = 128
EXPIRES: Final = 256
PROXY_REQUIRE: Final = 512
URIS: Final = 1024
DIGEST: Final = 2048
DUPLICATES: Final = 4096
AUTHORIZATION: Final = 8192
DEFAULT: Final = 999

URI_RURI: Final = 1
URI_FROM: Final = 2
URI_TO: Final = 4
URI_CONTACT: Final = 8

_SINGLE: Final = ("from", "to", "call-id", "cseq", "max-forwards", "content-length")
_TRANSPORTS: Final = frozenset({"UDP", "TCP", "TLS", "SCTP", "TLS-SCTP", "WS", "WSS"})
_DIGEST_HEADERS: Final = ("authorization", "proxy-authorization")
_DIGEST_NEEDS: Final = ("username", "realm", "nonce", "uri", "response")


class Refusal:
    """The answer to a failed check."""

    def __init__(self, status: int, reason: str, headers: tuple[str, ...] = ()) -> None:
        self.status: Final = status
        self.reason: Final = reason
        self.headers: Final = headers


def check(message: Message, bits: int, uri_bits: int, known_extensions: frozenset[str]) -> Refusal | None:
    """The first check of *bits* that *message* fails, None when it passes all."""
    try:
        return (
            _check_start_line(message, bits)
            or _check_headers(message, bits)
            or _check_numbers(message, bits)
            or _check_extensions(message, bits, known_extensions)
            or _check_credentials(message, bits)
            or (_check_uris(message, uri_bits) if bits & URIS else None)
        )
    except ParseError as exc:
        return Refusal(exc.status, exc.reason or "Bad Request")


def _check_start_line(message: Message, bits: int) -> Refusal | None:
    if not isinstance(message, Request):
        return None
    if bits & RURI_VERSION and not message.start_line.upper().endswith(" SIP/2.0"):
        return Refusal(505, "Version Not Supported")
    if bits & RURI_SCHEME:
        scheme = ascii_lower(message.request_uri.partition(":")[0])
        if scheme not in {"sip", "sips", "tel", "tels"}:
            return Refusal(416, "Unsupported URI Scheme")
    return None


def _check_headers(message: Message, bits: int) -> Refusal | None:
    if bits & REQUIRED:
        for name, title in (("via", "Via"), ("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq")):
            if not message.has(name):
                return Refusal(400, f"Missing {title} Header")
    if bits & (VIA_VERSION | VIA_PROTOCOL):
        version, transport = _via_protocol(message)
        if bits & VIA_VERSION and version != "SIP/2.0":
            return Refusal(505, "Version Not Supported")
        if bits & VIA_PROTOCOL and transport not in _TRANSPORTS:
            return Refusal(400, "Unsupported Transport in Via")
    if bits & DUPLICATES:
        for name in _SINGLE:
            if message.names.count(name) > 1:
                return Refusal(400, "Duplicate Header")
    return None


def _via_protocol(message: Message) -> tuple[str, str]:
    """("SIP/2.0", "UDP") of the top Via as written, in upper case."""
    text = (message.get("via") or "").replace("\t", " ")
    name, _, rest = text.partition("/")
    version, _, rest = rest.partition("/")
    transport = rest.strip(" ").partition(" ")[0]
    return f"{name.strip(' ')}/{version.strip(' ')}".upper(), transport.upper()


def _check_numbers(message: Message, bits: int) -> Refusal | None:
    if bits & (CSEQ_METHOD | CSEQ_VALUE) and message.has("cseq"):
        cseq = message.cseq  # raises for a number over 2**31-1
        if bits & CSEQ_METHOD and isinstance(message, Request) and cseq.method != message.method:
            return Refusal(400, "CSeq Method Does Not Match")
    if bits & CONTENT_LENGTH:
        length = message.content_length
        if length is not None and length != len(message.body):
            return Refusal(400, "Content-Length Does Not Match")
    if bits & EXPIRES:
        expires = message.get("expires")
        if expires is not None and parse_number(expires, 2**32 - 1) < 0:
            return Refusal(400, "Bad Expires")
    return None


def _check_extensions(message: Message, bits: int, known: frozenset[str]) -> Refusal | None:
    if not bits & PROXY_REQUIRE:
        return None
    unknown: list[str] = []
    for line in message.get_all("proxy-require"):
        unknown.extend([tag for tag in split_option_tags(line) if ascii_lower(tag) not in known])
    if not unknown:
        return None
    return Refusal(420, "Bad Extension", (f"Unsupported: {', '.join(unknown)}",))


def _check_credentials(message: Message, bits: int) -> Refusal | None:
    if not bits & (DIGEST | AUTHORIZATION):
        return None
    for name in _DIGEST_HEADERS:
        for line in message.get_all(name):
            scheme, _, rest = line.partition(" ")
            if ascii_lower(scheme) != "digest":
                continue
            present = {ascii_lower(part.partition("=")[0].strip(" \t")) for part in rest.split(",")}
            if any(need not in present for need in _DIGEST_NEEDS):
                return Refusal(400, "Bad Credentials")
    return None


def _check_uris(message: Message, bits: int) -> Refusal | None:
    if bits & URI_RURI and isinstance(message, Request):
        parse_uri(message.request_uri)
    if bits & URI_FROM:
        parse_uri(message.from_.uri_text)
    if bits & URI_TO:
        parse_uri(message.to.uri_text)
    if bits & URI_CONTACT:
        for contact in message.contacts:
            if contact.uri_text != "*":
                parse_uri(contact.uri_text)
    return None


class Sanity:
    """The module: default checks, and who answers."""

    def __init__(self) -> None:
        self.default_checks = DEFAULT
        self.uri_checks = URI_RURI | URI_FROM | URI_TO
        self.proxy_require = ""
        self.autodrop = 1
        self._known: frozenset[str] = frozenset()
        self._replies: ReplyService | None = None

    def init(self, server: Server) -> None:
        """Find who answers; called in the master."""
        self._replies = server.find(REPLIES)
        self._known = frozenset(ascii_lower(tag) for tag in split_option_tags(self.proxy_require))

    def sanity_check(self, ctx: Context, bits: int = -1, uri_bits: int = -1) -> int:
        """True when the message passes; else it is answered and the script ends."""
        refusal = check(
            ctx.message,
            self.default_checks if bits < 0 else bits,
            self.uri_checks if uri_bits < 0 else uri_bits,
            self._known,
        )
        if refusal is None:
            return TRUE
        request = ctx.request
        if ctx.response is None and request is not None and request.method != "ACK" and self._replies is not None:
            self._replies.reply(ctx, refusal.status, refusal.reason, refusal.headers)
        return STOP if self.autodrop else FALSE


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = Sanity()
    return Exports(
        "sanity",
        module,
        functions=(
            Function(
                "sanity_check",
                module.sanity_check,
                (Arg.INT, Arg.INT),
                optional=2,
                routes=Routes.REQUEST | Routes.ONREPLY,
                summary="check the message (bits, URI bits); a bad one is answered and the script ends",
            ),
        ),
        params=(
            Param("default_checks", "int", DEFAULT, "checks made without an argument", attribute="default_checks"),
            Param("uri_checks", "int", 7, "URIs checked without an argument", attribute="uri_checks"),
            Param("proxy_require", "str", "", "extensions a Proxy-Require may name", attribute="proxy_require"),
            Param("autodrop", "int", 1, "1: a failed check ends the script; 0: it is false", attribute="autodrop"),
        ),
        init=module.init,
    )
