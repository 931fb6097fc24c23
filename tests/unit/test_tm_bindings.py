"""What becomes of targets that the registrar has made: a connection first, then the contact; foreign hosts softly."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import SOFT, Target
from serpy.sip.flow import NO_CONNECT, Flow, Listener

CALLEE = ("192.0.2.2", 5060)
OPEN = "sip:192.0.2.2:40000;transport=tcp;dstip=192.0.2.100;dstport=5060;open"


class TcpBench(Bench):
    def __init__(self, **routes):
        super().__init__(**routes)
        self.tcp = Listener(1, "tcp", "192.0.2.100", 5060)
        self.server.listeners.append(self.tcp)
        self.flows = []

    def _send(self, outgoing):
        super()._send(outgoing)
        self.flows.append(outgoing.flow)

    def where(self):
        """(transport, port, options) of everything but what went to the caller."""
        found = [(flow.transport, flow.port, flow.options) for flow in self.flows if flow.host != "192.0.2.1"]
        self.flows.clear()
        return found


def to_phone(contact):
    def main(bench, ctx):
        ctx.request_uri = contact
        ctx.dst_uri = OPEN
        ctx.send_listener = bench.tcp
        bench.tm.t_relay(ctx)

    return main


@pytest.mark.parametrize(
    ("contact", "port"),
    [
        ("sip:bob@192.0.2.2:5070;transport=tcp", 5070),
        ("sip:bob@192.0.2.2:5070", 5070),
        ("sip:bob@192.0.2.2", 5060),
        ("sip:bob@192.0.2.2;ob;transport=TCP", 5060),
    ],
)
def test_a_connection_that_is_gone_is_followed_by_one_to_the_contact_and_never_by_udp(contact, port):
    bench = TcpBench(main=to_phone(contact))
    invite = next(item for item in bench.receive(request()) if item.what == "INVITE")
    assert bench.where() == [("tcp", 40000, NO_CONNECT)]
    bench.pipeline.not_sent(invite.data)
    [again] = [item for item in bench.advance(0.1) if item.what == "INVITE"]
    assert bench.where() == [("tcp", port, 0)]
    assert again.text.startswith(f"INVITE {contact} SIP/2.0\r\n")
    bench.pipeline.not_sent(again.data)
    assert names(bench.advance(0.1)) == ["500 192.0.2.1"]


@pytest.mark.parametrize("host", ["phone.invalid", "localhost", "printer.local"])
def test_a_name_that_leads_nowhere_is_not_even_looked_up(host):
    asked = []
    bench = TcpBench(main=to_phone(f"sip:bob@{host};transport=tcp"))
    bench.pipeline.forwarder.resolve = lambda uri: asked.append(uri) or []
    invite = next(item for item in bench.receive(request()) if item.what == "INVITE")
    bench.pipeline.not_sent(invite.data)
    assert names(bench.advance(0.1)) == ["500 192.0.2.1"]
    assert asked == []


def test_while_it_stands_nothing_else_is_tried():
    bench = TcpBench(main=to_phone("sip:bob@192.0.2.2:5070"))
    invite = next(item for item in bench.receive(request()) if item.what == "INVITE")
    bench.flows.clear()
    bench.pipeline.receive(response(invite, 180).encode(), Flow(bench.tcp, "192.0.2.2", 40000, 7))
    assert names(bench.take()) == ["180 192.0.2.1"]
    bench.advance(5)
    assert bench.where() == []


# -- softly -------------------------------------------------------------------------------------------------------------------


def softly(*uris):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        ctx.request_uri = uris[0]
        ctx.target_flags = SOFT
        for uri in uris[1:]:
            ctx.branches.append(Target(uri, flags=SOFT))
        bench.tm.t_relay(ctx)

    return main


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_who_never_answered_gets_a_request_and_two_repetitions(method):
    bench = Bench(main=softly("sip:x@192.0.2.2"))
    sent = bench.receive(request(method)) + bench.advance(60)
    assert [item.what for item in sent].count(method) == 3


def test_branches_to_one_such_host_are_one_whatever_their_names():
    bench = Bench(main=softly("sip:a@one.example", "sip:b@two.example", "sip:c@192.0.2.2:5062"))
    bench.slow_resolver(0.0, ("udp", "192.0.2.2", 5060))
    sent = bench.receive(request("MESSAGE")) + bench.advance(60)
    assert [item.what for item in sent].count("MESSAGE") == 3


@pytest.mark.parametrize("source", [CALLEE, ("192.0.2.99", 5060)])
def test_the_first_answer_from_there_proves_it(source):
    proven = []
    bench = Bench(main=softly("sip:x@192.0.2.2"))
    bench.layer.on_proven.append(proven.append)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 100), source)
    bench.receive(response(invite, 180), source)
    assert proven == (["sip:x@192.0.2.2"] if source == CALLEE else [])


def test_a_message_that_has_a_provisional_is_repeated_as_usual():
    bench = Bench(main=softly("sip:x@192.0.2.2"))
    [message] = bench.receive(request("MESSAGE"))
    bench.receive(response(message, 100), CALLEE)
    assert [item.what for item in bench.advance(20)].count("MESSAGE") > 3


def test_the_call_is_given_up_when_its_time_is_over_all_the_same():
    bench = Bench(main=softly("sip:x@192.0.2.2"))
    bench.receive(request())
    assert "408 192.0.2.1" in names(bench.advance(180))
    bench.advance(60)
    assert not bench.layer.clients
    assert len(bench.layer.wheel) <= 1
