"""Connection ids, orders between processes, and who knows which connection leads where."""

from __future__ import annotations

import pytest

from serpy.errors import TransportError
from serpy.net.handoff import STREAM_SEND, Channels, Layout
from serpy.net.streams import (
    Directory,
    Order,
    StreamSender,
    child_of,
    connection_id,
    decode_alias,
    decode_order,
    encode_alias,
    encode_order,
    generation_of,
    home_of,
)
from serpy.sip.flow import AS_HTTP, AS_IS, CLOSE, NO_CONNECT, Flow, Listener, Outgoing

LARGEST_ID = connection_id(255, 65535, 2**32 - 1)
MESSAGE = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n"
RECEIVERS = 2


@pytest.mark.parametrize(
    ("child", "generation", "serial"),
    [
        pytest.param(0, 0, 1, id="first"),
        pytest.param(255, 65535, 2**32 - 1, id="largest"),
        pytest.param(3, 65536, 2**32 + 5, id="wraps"),
    ],
)
def test_a_connection_id_tells_child_and_generation(child, generation, serial):
    number = connection_id(child, generation, serial)
    assert 0 < number < 2**62
    assert (child_of(number), generation_of(number)) == (child, generation & 65535)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("connection", [0, LARGEST_ID])
def test_an_order_survives_its_datagram(host, connection):
    order = decode_order(encode_order(Order(b"\0data", connection, 300, host, 65535, CLOSE | NO_CONNECT, 65535)))
    assert (order.data, order.connection, order.listener, order.host, order.port, order.options, order.origin) == (
        b"\0data", connection, 300, host, 65535, CLOSE | NO_CONNECT, 65535,
    )  # fmt: skip


def test_an_alias_survives_its_datagram():
    assert decode_alias(encode_alias(3, LARGEST_ID, "2001:db8::1", 65535)) == (3, LARGEST_ID, "2001:db8::1", 65535)


def test_nobody_takes_over_an_address_that_has_a_connection():
    directory = Directory()
    assert directory.add("192.0.2.1", 5060, 7)
    assert not directory.add("192.0.2.1", 5060, 8)
    directory.remove("192.0.2.1", 5060, 8)
    assert directory.find("192.0.2.1", 5060) == 7
    directory.remove("192.0.2.1", 5060, 7)
    assert directory.find("192.0.2.1", 5060) == 0


def test_the_connections_of_a_dead_child_are_forgotten_together():
    directory = Directory()
    mine, other = connection_id(0, 0, 1), connection_id(1, 0, 1)
    directory.add("192.0.2.1", 1, mine)
    directory.add("192.0.2.1", 2, other)
    directory.drop_child(1)
    assert (len(directory), directory.find("192.0.2.1", 1)) == (1, mine)


class Sending:
    """A StreamSender with two TCP receivers whose generation is *generations*, and what reaches them."""

    def __init__(self):
        self.layout = Layout(RECEIVERS, 2)
        self.channels = Channels(self.layout.slots)
        self.channels.slot = 1
        self.generations = {self.layout.first_stream: 0, self.layout.first_stream + 1: 0}
        self.sender = StreamSender(self.channels, self.layout, self.generations.__getitem__)
        self.listener = Listener(3, "tcp", "127.0.0.1", 5060)

    def send(self, data=MESSAGE, **flow):
        values = {"host": "192.0.2.1", "port": 5060, **flow}
        self.sender.send(Outgoing(data, Flow(self.listener, **values)))

    def taken(self, child):
        """The order that the TCP receiver *child* has got."""
        data = self.channels._in[self.layout.first_stream + child].recv(70000)
        assert data[0] == STREAM_SEND
        return decode_order(data[3:])


def test_a_message_goes_to_the_holder_of_its_connection():
    sending = Sending()
    number = connection_id(1, 0, 9)
    sending.send(connection=number, options=CLOSE)
    order = sending.taken(1)
    assert (order.connection, order.origin, order.listener, order.options) == (number, 1, 3, CLOSE)


def test_a_message_without_a_connection_goes_to_the_home_of_its_address():
    sending = Sending()
    sending.send()
    assert sending.taken(home_of("192.0.2.1", 5060, 2)).connection == 0


def test_the_connection_of_an_earlier_life_is_stale_at_once():
    sending = Sending()
    number = connection_id(1, 0, 9)
    sending.generations[sending.layout.first_stream + 1] = 1
    sending.send(connection=number)
    assert sending.taken(home_of("192.0.2.1", 5060, 2)).connection == 0
    with pytest.raises(TransportError, match="gone"):
        sending.send(connection=number, options=NO_CONNECT)


@pytest.mark.parametrize(
    ("options", "data", "sent"),
    [
        pytest.param(0, b"ACK a SIP/2.0\r\n\r\n", b"ACK a SIP/2.0\r\nContent-Length: 0\r\n\r\n", id="gets-a-length"),
        pytest.param(AS_IS, b"x\r\n\r\ny", b"x\r\n\r\ny", id="as-it-is"),
        pytest.param(AS_HTTP, b"SIP/2.0 403 No\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n", id="http-status-line"),
    ],
)
def test_what_is_done_to_the_bytes(options, data, sent):
    sending = Sending()
    sending.send(data, options=options)
    assert sending.taken(home_of("192.0.2.1", 5060, 2)).data == sent


def test_what_does_not_fit_a_hand_off_datagram_is_an_error():
    sending = Sending()
    with pytest.raises(TransportError):
        sending.send(b"x" * 66100, options=AS_IS)


def test_a_full_hand_off_socket_is_an_error():
    sending = Sending()
    while sending.channels.send(sending.layout.first_stream + home_of("192.0.2.1", 5060, 2), STREAM_SEND, b"x" * 60000):
        pass
    with pytest.raises(TransportError):
        sending.send(b"x" * 60000, options=AS_IS)


def test_without_tcp_receivers_nothing_can_be_sent():
    channels = Channels(5)
    sender = StreamSender(channels, Layout(RECEIVERS), lambda _slot: 0)
    with pytest.raises(TransportError):
        sender.send(Outgoing(MESSAGE, Flow(Listener(0, "tcp", "127.0.0.1", 5060), "192.0.2.1", 5060)))
