"""HTTP requests before the script: what it sees, what it may answer, and that nothing is served without it."""

from __future__ import annotations

import contextlib

import pytest
from support.receiver import FakeProgram

from serpy.api import ConfigError, Server
from serpy.config import Settings
from serpy.errors import ProtocolError, ResourceError, TransportError
from serpy.modules.xmlrpc import exports, parse_http
from serpy.net.handoff import HEADER_SIZE, HTTP_RPC, Channels, decode_message
from serpy.net.loop import Loop
from serpy.sip.flow import AS_HTTP, AS_IS, CLOSE, NO_CONNECT, Flow, Listener

POST = (
    b"POST /RPC2 HTTP/1.1\r\nHost: h\r\nVia: 1.1 proxy\r\nUser-Agent: Python-xmlrpc/3.11\r\nContent-Type: text/xml\r\n"
    b"Content-Length: 4\r\n\r\n<x/>"
)
CONNECTION = 77


class Setup:
    """The module with *route* as its script, a Python callable that gets (module, ctx)."""

    def __init__(self, route=None, name="XMLRPC", program=None, **params):
        self.module = exports().module
        self.module.route = name
        for key, value in params.items():
            setattr(self.module, key, value)
        self.server = Server(Settings({"children": 3}))
        self.listener = Listener(0, "tcp", "127.0.0.1", 5060)
        self.server.listeners = [self.listener]
        self.server.loop = Loop()
        self.server.channels = Channels(6)
        self.sent = []
        self.server.send = self.sent.append
        self.server.program = program or FakeProgram(
            **{"main_XMLRPC" if name else "main_": lambda ctx: route(self.module, ctx) if route else None}
        )
        self.module.init(self.server)

    def calls(self):
        """(kind, payload) of everything that was handed to ctl: after three receivers, timer and store."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self.server.channels._in[5].recv(70000)
                found.append((data[0], data[HEADER_SIZE:]))
        return found

    def take(self, data=POST):
        """(was it ours, [first line of each answer])."""
        flow = Flow(self.listener, "192.0.2.1", 40000, CONNECTION, AS_HTTP | NO_CONNECT)
        ours = self.server.hooks.on_http[0](data, flow)
        return ours, [outgoing.data.split(b"\r\n")[0].decode() for outgoing in self.sent]


def dispatch(module, ctx):
    assert module.dispatch_rpc(ctx) == 1


def test_an_allowed_call_is_handed_to_ctl_with_its_connection():
    one = Setup(dispatch)
    assert one.take() == (True, [])
    [(kind, payload)] = one.calls()
    assert kind == HTTP_RPC
    assert decode_message(payload[1:]) == (b"<x/>", 0, "192.0.2.1", 40000, CONNECTION)
    assert payload[0] == 128  # escape_cr, and the connection stays


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(None, id="route-does-nothing"),
        pytest.param(lambda _module, _ctx: False, id="route-drops"),
    ],
)
def test_what_the_script_does_not_answer_is_refused(route):
    one = Setup(route)
    assert one.take() == (True, ["HTTP/1.1 403 Forbidden"])
    assert one.calls() == []
    assert one.sent[0].flow.options == CLOSE | AS_IS


@pytest.mark.parametrize("error", [ProtocolError("no"), ResourceError("full")], ids=lambda error: type(error).__name__)
def test_a_script_that_fails_serves_nothing(error):
    def route(_module, _ctx):
        raise error

    assert Setup(route).take() == (True, ["HTTP/1.1 403 Forbidden"])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(POST.replace(b"text/xml", b"text/plain"), "415 Unsupported Media Type", id="another-type"),
        pytest.param(POST.replace(b"Content-Type: text/xml\r\n", b""), "415 Unsupported Media Type", id="no-type"),
        pytest.param(POST.replace(b"POST", b"GET"), "405 Method Not Allowed", id="get"),
    ],
)
def test_dispatch_rpc_refuses_what_is_no_call(data, status):
    one = Setup(lambda module, ctx: module.dispatch_rpc(ctx) == -1)
    assert one.take(data)[1] == [f"HTTP/1.1 {status}"]
    assert one.calls() == []


@pytest.mark.parametrize("kind", [b"text/xml; charset=utf-8", b"TEXT/XML", b"application/xml"])
def test_xml_is_taken_under_its_names(kind):
    one = Setup(dispatch)
    one.take(POST.replace(b"text/xml", kind))
    assert len(one.calls()) == 1


def test_when_ctl_has_no_room_the_client_is_told():
    one = Setup(lambda module, ctx: module.dispatch_rpc(ctx))
    while one.server.channels.send(5, HTTP_RPC, b"x" * 60000):
        pass
    assert one.take()[1] == ["HTTP/1.1 503 Service Unavailable"]


def test_a_fault_of_the_script_is_a_document():
    codes = []
    one = Setup(lambda module, ctx: codes.extend([module.xmlrpc_reply(ctx, 400, "No <way>"), module.dispatch_rpc(ctx)]))
    assert one.take()[1] == ["HTTP/1.1 200 OK"]
    assert b"<int>400</int>" in one.sent[0].data
    assert b"No &lt;way&gt;" in one.sent[0].data
    assert codes == [1, -1]  # there is one answer


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        pytest.param(b"POST /RPC2 HTTP/1.0\r\n", True, id="http-1.0"),
        pytest.param(b"POST /RPC2 HTTP/1.0\r\nConnection: Keep-Alive\r\n", False, id="http-1.0-keep-alive"),
        pytest.param(b"POST /RPC2 HTTP/1.1\r\n", False, id="http-1.1"),
        pytest.param(b"POST /RPC2 HTTP/1.1\r\nConnection: close\r\n", True, id="http-1.1-close"),
    ],
)
def test_the_connection_is_kept_as_http_has_it(head, closes):
    one = Setup(dispatch)
    one.take(head + POST.partition(b"\r\n")[2])
    assert bool(one.calls()[0][1][0] & CLOSE) == closes


def test_the_script_sees_a_request_with_a_via_of_our_making():
    seen = []
    Setup(lambda _module, ctx: seen.append(ctx.request)).take()
    request = seen[0]
    assert (request.method, request.request_uri, request.body) == ("POST", "/RPC2", b"<x/>")
    assert request.get_all("via")[0].startswith("SIP/2.0/TCP 192.0.2.1:40000;branch=z9hG4bKhttp")
    assert len(request.get_all("via")) == 1  # that of HTTP is something else
    assert request.get("user-agent") == "Python-xmlrpc/3.11"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"POST /\r\n\r\n", id="no-version"),
        pytest.param(b"\xff HTTP/1.1\r\n\r\n", id="no-method"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n", id="too-many-headers"),
        pytest.param(b"GET / HTTP/1.1\r\na b: c\r\n\r\n", id="bad-header-name"),
    ],
)
def test_a_malformed_request_is_400(data):
    one = Setup(dispatch)
    assert one.take(data) == (True, ["HTTP/1.1 400 Bad Request"])


def test_odd_lines_are_left_out():
    request = parse_http(
        b"GET / HTTP/1.1\n folded\nno colon\nX-Odd: 1\n\nbody", Flow(Listener(0, "tcp", "::1", 1), "::1", 2), "1"
    )
    assert (request.names, request.body) == (["via", "x-odd"], b"body")
    assert request.lines[0].startswith("Via: SIP/2.0/TCP [::1]:2;")


@pytest.mark.parametrize(
    ("params", "ours"),
    [
        pytest.param({"url_match": "^/RPC"}, True, id="matched"),
        pytest.param({"url_match": "^/sip"}, False, id="not-matched"),
        pytest.param({"url_skip": "^/RPC"}, False, id="skipped"),
        pytest.param({"url_skip": "^/sip"}, True, id="not-skipped"),
    ],
)
def test_urls_are_chosen(params, ours):
    assert Setup(dispatch, **params).take()[0] == ours


def test_without_a_route_the_main_route_is_asked():
    one = Setup(dispatch, name="")
    one.take()
    assert len(one.calls()) == 1


def test_mode_1_takes_nothing():
    assert Setup(dispatch, mode=1).server.hooks.on_http == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"name": "NONE", "program": FakeProgram()}, "no route", id="unknown-route"),
        pytest.param({"url_match": "("}, "no regular expression", id="bad-pattern"),
    ],
)
def test_what_is_wrong_with_the_parameters_is_told_at_the_start(params, message):
    with pytest.raises(ConfigError, match=message):
        Setup(**params)


def test_the_functions_need_an_http_request():
    seen = []
    one = Setup(lambda _module, ctx: seen.append(ctx))
    one.take()
    ctx = seen[0]
    ctx.notes.clear()
    assert one.module.dispatch_rpc(ctx) == -1
    assert one.module.xmlrpc_reply(ctx, 400, "x") == -1


def test_a_connection_that_has_gone_is_no_error_of_ours():
    def gone(_outgoing):
        raise TransportError("gone")

    one = Setup(lambda module, ctx: module.xmlrpc_reply(ctx, 400, "x"))
    one.server.send = gone
    assert one.take() == (True, [])


def test_the_client_is_answered_when_the_route_runs_into_a_bug():
    after = []
    one = Setup(lambda _module, _ctx: 1 // 0)
    one.server.hooks.post_script.append(lambda _ctx: after.append(1))
    with pytest.raises(ZeroDivisionError):
        one.take()
    assert [outgoing.data.split(b"\r\n")[0] for outgoing in one.sent] == [b"HTTP/1.1 500 Internal Server Error"]
    assert one.sent[0].flow.options & CLOSE
    assert after == [1]
