from types import SimpleNamespace

import pytest

from serpy.net.handoff import HTTP_RPC
from serpy.rpc.http import HttpCalls, encode_call
from serpy.sip.flow import CLOSE, Flow, Listener


class Ctl:
    """What HttpCalls needs of ctl: calls run at once, what is sent is kept."""

    def __init__(self, answer):
        self.sent = []
        self.listener = Listener(0, "tcp", "127.0.0.1", 5060)
        self.loop = SimpleNamespace(spawn=lambda call: call(), now=lambda: 0.0)
        self.channels = SimpleNamespace(on=self._on)
        self.listeners = [self.listener]
        self.send = self.sent.append
        HttpCalls(self, answer).start()

    def _on(self, kind, handler):
        assert kind == HTTP_RPC
        self.take = handler

    def call(self, body):
        self.take(encode_call(body, Flow(self.listener, "127.0.0.1", 4000, 7), escape_cr=True), 1)


def test_an_answer_goes_back_by_the_connection_it_came_from():
    ctl = Ctl(lambda body, _escape: b"<" + body + b">")
    ctl.call(b"a")
    assert ctl.sent[0].data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ctl.sent[0].data.endswith(b"<a>")
    assert (ctl.sent[0].flow.connection, ctl.sent[0].flow.options & CLOSE) == (7, 0)


def test_whatever_goes_wrong_in_a_call_is_told_and_closes_its_connection():
    def broken(_body, _escape):
        raise RecursionError

    ctl = Ctl(broken)
    with pytest.raises(RecursionError):
        ctl.call(b"a")
    assert ctl.sent[0].data.startswith(b"HTTP/1.1 500 ")
    assert ctl.sent[0].flow.options & CLOSE
