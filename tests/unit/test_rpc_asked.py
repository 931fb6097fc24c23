"""ctl asks a receiver: the question arrives whole, the answer finds who asked."""

from __future__ import annotations

import pytest

from serpy.api import Server
from serpy.config import Settings
from serpy.errors import BackendError, UsageError
from serpy.net.handoff import RPC_CALL, Channels, Layout
from serpy.net.loop import Loop
from serpy.rpc.asked import Answers, Questions

LAYOUT = Layout(1)


class Pair:
    """ctl and the one receiver, in one loop."""

    def __init__(self):
        self.loop = Loop()
        base = Channels(LAYOUT.slots, LAYOUT)
        self.servers = []
        for slot in (LAYOUT.ctl, 0):
            server = Server(Settings())
            server.loop = self.loop
            server.channels = channels = Channels(0, LAYOUT)
            channels._in, channels._out = list(base._in), base._out
            channels.slot = slot
            self.loop.add_reader(base._in[slot].fileno(), channels.read)
            self.servers.append(server)
        self.questions = Questions(self.servers[0])
        self.answers = Answers(self.servers[1])

    def ask(self, name, *arguments):
        found = []

        def asking():
            try:
                found.append(self.questions.ask(0, name, list(arguments)))
            except BackendError as exc:
                found.append(exc)
            self.loop.stop()

        self.loop.spawn(asking)
        self.loop.run()
        return found[0]


@pytest.mark.parametrize("value", [0, -1, "text", [1, {"a": None}]], ids=repr)
def test_the_answer_is_what_the_function_returns(value):
    pair = Pair()
    asked = []
    pair.answers.on("tm.test", lambda *arguments: asked.append(arguments) or value)
    assert pair.ask("tm.test", "call-id", 7) == value
    assert asked == [("call-id", 7)]


def test_a_question_that_nobody_answers_is_counted_there_and_fails_here(monkeypatch):
    monkeypatch.setattr("serpy.rpc.asked.ANSWER_S", 0.05)
    pair = Pair()
    assert "does not answer" in str(pair.ask("tm.unknown"))
    assert pair.servers[1].channels.dropped == 1


def test_a_receiver_without_room_fails_the_question_at_once():
    pair = Pair()
    channels = pair.servers[0].channels
    while channels.send(0, RPC_CALL, b"x" * 60_000):
        pass
    pair.loop.remove_reader(pair.servers[1].channels._in[0].fileno())
    assert "cannot be reached" in str(pair.ask("tm.test"))


def test_a_name_is_answered_by_one():
    pair = Pair()
    pair.answers.on("tm.test", lambda: 1)
    with pytest.raises(UsageError):
        pair.answers.on("tm.test", lambda: 2)
