"""The received URI is written and read by one class, whoever keeps it in between."""

import pytest

from serpy.errors import ParseError
from serpy.sip.flow import Flow, Listener
from serpy.sip.received import ReceivedUri, parse_received, received_from

UDP = Listener(0, "udp", "192.0.2.1", 5060)
TLS = Listener(1, "tls", "2001:db8::1", 5061)


def parts(received):
    return (received.host, received.port, received.transport, received.local_host, received.local_port)


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        pytest.param(Flow(UDP, "203.0.113.7", 40000), "sip:203.0.113.7:40000;dstip=192.0.2.1;dstport=5060", id="udp"),
        pytest.param(
            Flow(TLS, "2001:db8::9", 40000),
            "sip:[2001:db8::9]:40000;transport=tls;dstip=[2001:db8::1];dstport=5061",
            id="tls-and-ipv6",
        ),
    ],
)
def test_what_is_written_for_a_packet_is_read_again(flow, text):
    assert str(received_from(flow)) == text
    found = parse_received(text)
    assert parts(found) == (flow.host, flow.port, flow.transport, flow.listener.host, flow.listener.port)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        pytest.param("sip:203.0.113.7:5066", ("203.0.113.7", 5066, "udp", "", 0), id="without-a-socket"),
        pytest.param("sip:203.0.113.7", ("203.0.113.7", 5060, "udp", "", 0), id="without-a-port"),
        pytest.param("sip:[2001:db8::9]", ("2001:db8::9", 5060, "udp", "", 0), id="ipv6-without-a-port"),
        pytest.param("sips:203.0.113.7", ("203.0.113.7", 5061, "tls", "", 0), id="sips"),
        pytest.param("sip:u@203.0.113.7:5066", ("203.0.113.7", 5066, "udp", "", 0), id="with-a-user"),
        pytest.param("SIP:203.0.113.7:7", ("203.0.113.7", 7, "udp", "", 0), id="upper-case"),
        pytest.param("sip:Proxy.example.com:5070", ("proxy.example.com", 5070, "udp", "", 0), id="a-name"),
        pytest.param("sip:x.example.com;maddr=203.0.113.9", ("203.0.113.9", 5060, "udp", "", 0), id="maddr"),
        pytest.param(
            "sip:203.0.113.7:7;Transport=TCP;DstPort=5060;DstIP=192.0.2.1;lr",
            ("203.0.113.7", 7, "tcp", "192.0.2.1", 5060),
            id="parameters-in-any-order-and-case",
        ),
        pytest.param("sip:203.0.113.7:7;dstip=192.0.2.1", ("203.0.113.7", 7, "udp", "", 0), id="half-a-socket"),
        pytest.param("sip:203.0.113.7:7;dstip=192.0.2.1;dstport=x", ("203.0.113.7", 7, "udp", "", 0), id="no-number"),
    ],
)
def test_what_others_wrote_is_understood(text, read):
    assert parts(parse_received(text)) == read
    assert parts(parse_received(str(parse_received(text)))) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "tel:+4930",
        "sip:",
        "sip::5060",
        "sip:203.0.113.7:99999",
        "sip:203.0.113.7:",
        "sip:203.0.113.7:5060;a b",
        "sip:[2001:db8::9:5060",
    ],
)
def test_what_is_no_sip_uri_is_refused(text):
    with pytest.raises(ParseError):
        parse_received(text)


def test_many_different_parameters_are_not_remembered_for_ever():
    for number in range(3000):
        assert parse_received(f"sip:203.0.113.7:5060;x={number}").port == 5060
    assert parts(ReceivedUri("h", 1)) == ("h", 1, "udp", "", 0)
