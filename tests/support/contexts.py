"""Contexts for module tests: built from SIP text, rendered back with the edits made."""

from types import SimpleNamespace

from serpy.api import Context, Flow, Listener, Server
from serpy.clock import Clock
from serpy.context.context import REQUEST
from serpy.sip.message import Request, Response
from serpy.sip.parser import parse_message
from serpy.sip.writer import build_forwarded_response, build_request

LISTENER = Listener(0, "udp", "192.0.2.1", 5060)
SECOND = Listener(1, "udp", "198.51.100.1", 5060)
TLS = Listener(2, "tls", "192.0.2.1", 5061)
FLOW = Flow(LISTENER, "203.0.113.7", 5062)
VIA = "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKout"


def request_text(*headers, method="INVITE", uri="sip:bob@example.com", to_tag="", body="", from_tag="f1"):
    """A request with *headers* after the mandatory ones."""
    tag = f";tag={to_tag}" if to_tag else ""
    lines = [
        f"{method} {uri} SIP/2.0",
        "Via: SIP/2.0/UDP 203.0.113.7:5062;branch=z9hG4bKabc",
        f"From: <sip:alice@example.com>;tag={from_tag}",
        f"To: <sip:bob@example.com>{tag}",
        "Call-ID: call-1@203.0.113.7",
        f"CSeq: 1 {method}",
        *headers,
        f"Content-Length: {len(body)}",
        "",
        body,
    ]
    return "\r\n".join(lines)


def reply_text(*headers, status=200, reason="OK", method="INVITE"):
    """A reply with our Via on top."""
    lines = [
        f"SIP/2.0 {status} {reason}",
        VIA,
        "Via: SIP/2.0/UDP 203.0.113.7:5062;branch=z9hG4bKabc",
        "From: <sip:alice@example.com>;tag=f1",
        "To: <sip:bob@example.com>;tag=t1",
        "Call-ID: call-1@203.0.113.7",
        f"CSeq: 1 {method}",
        *headers,
        "Content-Length: 0",
        "",
        "",
    ]
    return "\r\n".join(lines)


def context(text, *, kind=REQUEST, flow=FLOW, now=100.0, wall_now=1_700_000_000.0):
    """The Context of one message given as text."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return Context(parse_message(data), flow, Clock(now, wall_now), kind)


def sent_lines(ctx, out=LISTENER):
    """The start line and header lines as they leave, without the Via put on or taken off."""
    message = ctx.message
    if isinstance(message, Response):
        data = build_forwarded_response(message, ctx.edits)
        return data.decode("utf-8", "surrogateescape").split("\r\n\r\n", 1)[0].split("\r\n")
    assert isinstance(message, Request)
    to = Flow(out, "198.51.100.9", 5060)
    on_top = [line for render in ctx.per_branch_headers for line in render(ctx, to)]
    data = build_request(message, ctx.request_uri, VIA, ctx.edits, on_top)
    lines = data.decode("utf-8", "surrogateescape").split("\r\n\r\n", 1)[0].split("\r\n")
    lines.remove(VIA)
    return lines


def sent_values(ctx, name, out=LISTENER):
    """The values of all header lines *name* as they leave."""
    found = []
    for line in sent_lines(ctx, out)[1:]:
        spelled, _, value = line.partition(":")
        if spelled.lower() == name.lower():
            found.append(value.strip())
    return found


def sent_body(ctx):
    """The body as it leaves."""
    data = build_request(ctx.message, ctx.request_uri, VIA, ctx.edits)
    return data.split(b"\r\n\r\n", 1)[1]


class FakeReplies:
    """A ReplyService that remembers what it was asked to answer."""

    def __init__(self):
        self.sent = []

    def reply(self, ctx, status, reason="", headers=(), body=b""):
        self.sent.append(SimpleNamespace(status=status, reason=reason, headers=list(headers), body=body))
        ctx.final_sent = ctx.final_sent or status >= 200
        return True


class FakeDomains:
    """A DomainService that serves the given names."""

    def __init__(self, *names):
        self.names = set(names)

    def is_local(self, host):
        return host.lower() in self.names


def server(*listeners, run_dir=""):
    """A Server with *listeners* (default: one) whose addresses are ours."""
    found = Server(SimpleNamespace())
    found.listeners = list(listeners or (LISTENER,))
    found.aliases = {(listener.host, listener.port) for listener in found.listeners}
    found.run_dir = run_dir
    return found


def function(exports, name):
    """The callable of script function *name*."""
    return next(entry.call for entry in exports.functions if entry.name == name)


def select(exports, prefix, *parts):
    """The reader of ``@prefix.parts``."""
    found = next(entry for entry in exports.selects if entry.prefix == prefix)
    return found.resolve(parts)


def configure(exports, instance_server, **parameters):
    """Set parameters as the loader does, then run init."""
    known = {param.name: param for param in exports.params}
    for name, value in parameters.items():
        setattr(exports.module, known[name].attribute or name, value)
    if exports.init is not None:
        exports.init(instance_server)
    return exports
