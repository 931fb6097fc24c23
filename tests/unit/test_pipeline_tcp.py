"""Connections in the pipeline: where answers go, what fails later, what is not repeated (RFC 3261 §17, §18.2.2, §18.4)."""

from __future__ import annotations

import pytest
from support.receiver import Bench, Sent, names, request, response

from serpy.clock import Clock
from serpy.context.context import Context
from serpy.net.streams import connection_id
from serpy.script import builtins
from serpy.sip.flow import CLOSE, NO_CONNECT, Flow, Listener
from serpy.sip.parser import parse_message

CALLEE = ("192.0.2.2", 5060)
CONNECTION = connection_id(1, 2, 3)
TCP_URI = "sip:bob@192.0.2.2;transport=tcp"
CALLER_TCP = "SIP/2.0/TCP 192.0.2.1:5070;branch=z9hG4bKcaller1"


class TcpBench(Bench):
    """A receiver with a TCP listener beside its UDP one; ``over_tcp`` receives as from the caller's connection."""

    def __init__(self, **routes):
        super().__init__(**routes)
        self.tcp = Listener(1, "tcp", "192.0.2.100", 5060)
        self.server.listeners.append(self.tcp)

    def over_tcp(self, text, source=("192.0.2.1", 40000), connection=CONNECTION):
        self.sent.clear()
        self.pipeline.receive(text.encode(), Flow(self.tcp, *source, connection))
        return self.flows()

    def flows(self):
        """(what, its flow) of everything sent."""
        return list(zip([item.what for item in self.take_all()], [item.flow for item in self.kept], strict=True))

    def take_all(self):
        self.kept = list(self.sent)
        return self.take()


def relay(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    bench.tm.t_relay(ctx)


def test_answers_go_back_by_the_connection_else_to_the_port_in_via():
    bench = TcpBench(main=lambda b, ctx: b.sl.sl_reply(ctx, 200, "OK"))
    [(what, flow)] = bench.over_tcp(request("OPTIONS", via=CALLER_TCP))
    assert what == "200"
    assert (flow.connection, flow.host, flow.port, flow.transport) == (CONNECTION, "192.0.2.1", 5070, "tcp")


def test_a_transaction_remembers_the_connection():
    bench = TcpBench(main=relay)
    sent = bench.over_tcp(request(via=CALLER_TCP))
    assert [(what, flow.transport) for what, flow in sent] == [("100", "tcp"), ("INVITE", "udp")]
    assert sent[0][1].connection == CONNECTION


def test_a_request_for_a_tcp_uri_leaves_by_tcp_with_our_tcp_via():
    bench = TcpBench(main=relay)
    _, invite = bench.receive(request(uri=TCP_URI))
    assert invite.line("Via").startswith("Via: SIP/2.0/TCP 192.0.2.100:5060;")
    assert bench.advance(10) == []  # and is not repeated


def test_a_negative_final_is_not_repeated_over_tcp():
    bench = TcpBench(main=relay)
    bench.over_tcp(request(via=CALLER_TCP))
    invite = next(item for item in bench.kept if item.data.startswith(b"INVITE"))

    assert names(bench.receive(response(Sent(invite), 486), CALLEE)) == ["ACK 192.0.2.2", "486 192.0.2.1"]
    assert bench.advance(10) == []


def test_a_request_that_could_not_leave_after_all_is_answered_as_if_503_had_come():
    bench = TcpBench(main=relay)
    _, invite = bench.receive(request(uri=TCP_URI))
    bench.pipeline.not_sent(invite.data)
    assert names(bench.advance(0.1)) == ["500 192.0.2.1"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda data: data.replace(b"INVITE sip", b"CANCEL sip").replace(b"1 INVITE", b"1 CANCEL"), id="cancel"
        ),
        pytest.param(lambda data: data.replace(b"INVITE sip", b"ACK sip").replace(b"1 INVITE", b"1 ACK"), id="ack"),
        pytest.param(lambda data: b"SIP/2.0 200 OK\r\n" + data.partition(b"\r\n")[2], id="response"),
        pytest.param(lambda data: data.replace(b"z9hG4bK", b"z9hG4bKx"), id="of-nobody"),
        pytest.param(lambda data: data[:40], id="cut-off"),
        pytest.param(lambda _data: b"\r\n\r\n", id="keep-alive"),
    ],
)
def test_other_messages_that_could_not_leave_change_nothing(spoil):
    bench = TcpBench(main=relay)
    _, invite = bench.receive(request(uri=TCP_URI))
    bench.pipeline.not_sent(spoil(invite.data))
    assert bench.advance(0.2) == []
    assert len(bench.layer.servers) == 1


def test_a_request_that_was_answered_did_leave():
    bench = TcpBench(main=relay)
    _, invite = bench.receive(request(uri=TCP_URI))
    bench.receive(response(invite, 180), CALLEE)
    bench.pipeline.not_sent(invite.data)
    assert bench.advance(0.2) == []


def test_a_stateless_response_finds_the_connection_of_its_request():
    bench = TcpBench(main=lambda b, ctx: b.pipeline.forwarder.forward(ctx))
    [(_, _)] = bench.over_tcp(request("MESSAGE", via=CALLER_TCP))

    message = Sent(bench.kept[0])
    assert message.lines("Via")[1] == f"Via: {CALLER_TCP}", "the connection is in the seal of our own Via"
    bench.pipeline.receive(response(message, 200).encode(), Flow(bench.listener, *CALLEE))
    [(what, flow)] = bench.flows()
    assert (what, flow.connection, flow.host, flow.port) == ("200", CONNECTION, "192.0.2.1", 5070)


def test_the_script_may_close_the_connection_with_the_answer():
    def main(bench, ctx):
        builtins.set_reply_close(ctx)
        builtins.set_reply_no_connect(ctx)
        bench.sl.sl_reply(ctx, 200, "OK")

    bench = TcpBench(main=main)
    [(_, flow)] = bench.over_tcp(request("OPTIONS", via=CALLER_TCP))
    assert flow.options == CLOSE | NO_CONNECT
    [sent] = bench.receive(request("OPTIONS"))
    assert sent.what == "200"  # over UDP there is nothing to close


def test_the_script_may_forbid_a_new_connection_for_what_it_forwards():
    def main(bench, ctx):
        builtins.set_forward_no_connect(ctx)
        builtins.set_forward_close(ctx)
        bench.tm.t_relay(ctx)

    bench = TcpBench(main=main)
    for number in range(2):  # the second time the next hop is known
        [(what, flow)] = bench.over_tcp(request("MESSAGE", TCP_URI, via=f"{CALLER_TCP}{number}", cseq=number + 1))
        assert (what, flow.options) == ("MESSAGE", CLOSE | NO_CONNECT)


def test_a_sips_target_never_leaves_in_the_clear():
    seen = []

    def main(bench, ctx):
        ctx.request_uri = "sips:bob@192.0.2.2"  # a forwarding address, say
        seen.append(bench.tm.t_relay(ctx))

    bench = TcpBench(main=main)
    sent = bench.receive(request("MESSAGE", "sip:bob@192.0.2.2"))
    assert not any(item.what == "MESSAGE" for item in sent)
    assert seen[0] < 0


def test_a_flow_leaves_from_the_address_it_came_to_when_that_can():
    bench = TcpBench(main=relay)
    other = Listener(2, "tcp", "192.0.2.101", 5060)
    bench.server.listeners.insert(1, other)
    flow = bench.pipeline.forwarder.flow_to("tcp", "192.0.2.2", 5060, bench.listener)
    assert flow.listener is bench.tcp


def test_an_option_of_the_flow_is_no_note_of_a_module():
    ctx = Context(
        parse_message(request().encode()), Flow(Listener(0, "udp", "192.0.2.100", 5060), *CALLEE), Clock(0.0, 0.0)
    )
    builtins.set_forward_close(ctx)
    assert ctx.notes == {"forward_options": CLOSE}
