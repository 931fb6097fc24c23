"""What waits behind a parked handler: in order, not for ever, and whatever bugs run into."""

from __future__ import annotations

import pytest
from support.receiver import CALLER, Bench, names, request, response

from serpy.context.context import REQUEST
from serpy.errors import ProtocolError, ResourceError
from serpy.sip.flow import Flow, Listener

BOB = ("192.0.2.2", 5060)


class Guarded(Bench):
    """A receiver with the barrier of its process: a bug is noted and answered for."""

    def __init__(self, *args, **routes):
        super().__init__(*args, **routes)
        self.bugs = []

    def guard(self, call, *args):
        try:
            call(*args)
        except ZeroDivisionError:
            self.bugs.append(self.loop.current)
            self.pipeline.answer_bug(self.loop.current, 500)

    def receive(self, data, source=CALLER, flow=None):
        self.sent.clear()
        flow = flow or Flow(self.listener, *source)
        self.loop.current = (data.encode(), flow)
        self.guard(self.pipeline.receive, data.encode(), flow)
        self.settle()
        return self.take()

    def settle(self):
        while self.loop._soon:
            self.guard(self.loop._soon.popleft())

    def advance(self, seconds):
        self.sent.clear()
        end = self.loop.now() + seconds
        while (at := self.pipeline.next_timer_at()) <= end:
            self.clock(max(self.loop.now(), at) + 1e-6)
            self.guard(self.pipeline.on_timer, self.loop.now())
            self.settle()
        self.clock(end)
        return self.take()


def bug():
    return 1 // 0


def message(number, method="MESSAGE", **more):
    return request(method, branch=f"z9hG4bK{number}", cseq=number, **more)


def parks(*queued, then=None):
    """A main route whose first INFO is parked while *queued* arrive; MESSAGE 2 has a bug."""

    def main(bench, ctx):
        if ctx.request.method == "INFO":
            for text in queued:
                bench.pipeline.receive(text.encode(), Flow(bench.listener, *CALLER))
            if then is not None:
                then(bench)
            return
        if ctx.request.cseq.number == 2:
            bug()
        bench.sl.sl_reply(ctx, 200, "OK")

    return main


def answers(sent):
    """(status, CSeq number) of each answer."""
    return [(item.what, item.line("CSeq").split()[1]) for item in sent]


def test_a_bug_in_one_queued_message_loses_none_of_the_others():
    bench = Guarded(main=parks(message(1), message(2), message(3), message(4)))
    sent = bench.receive(message(9, "INFO"))
    assert answers(sent) == [("200", "1"), ("500", "2"), ("200", "3"), ("200", "4")]
    assert len(bench.bugs) == 1
    assert bench.pipeline.order.is_idle()


def test_a_bug_of_the_parked_handler_is_answered_and_what_waits_behind_it_goes_on():
    bench = Guarded(main=parks(message(1), then=lambda _bench: bug()))
    assert answers(bench.receive(message(9, "INFO"))) == [("500", "9"), ("200", "1")]


def test_a_bug_in_a_queued_message_loses_no_timer():
    def main(bench, ctx):
        if ctx.request.method == "INFO":
            bench.pipeline.receive(message(2).encode(), Flow(bench.listener, *CALLER))
            later = bench.loop.now() + 0.7  # the INVITE is to be repeated, and meets this parked handler
            bench.clock(later)
            bench.pipeline.on_timer(later)
        elif ctx.request.method == "MESSAGE":
            bug()
        else:
            bench.tm.t_relay(ctx)

    bench = Guarded(main=main)
    bench.receive(request())
    assert [item.what for item in bench.receive(message(9, "INFO"))] == ["500", "INVITE"]
    bench.advance(4000)
    assert not bench.layer.servers


def test_what_parks_while_others_wait_behind_it_keeps_its_place():
    order = []

    def main(bench, ctx):
        number = ctx.request.cseq.number
        order.append(number)
        if number < 4:  # parked; what comes meanwhile parks in its turn
            bench.pipeline.receive(message(number + 1).encode(), Flow(bench.listener, *CALLER))
            bench.pipeline.receive(message(number + 10).encode(), Flow(bench.listener, *CALLER))

    bench = Guarded(main=main)
    bench.receive(message(1))
    assert order == [1, 2, 11, 3, 12, 4, 13]
    assert bench.pipeline.order.is_idle()


def test_repeats_of_what_waits_already_collapse():
    runs = []

    def main(bench, ctx):
        runs.append(ctx.request.cseq.number)
        if ctx.request.method == "INFO":
            for text in (message(1), message(1), message(3), message(1), message(3)):
                bench.pipeline.receive(text.encode(), Flow(bench.listener, *CALLER))
        else:
            bench.sl.sl_reply(ctx, 200, "OK")

    bench = Guarded(main=main)
    assert answers(bench.receive(message(9, "INFO"))) == [("200", "1"), ("200", "3")]
    assert runs == [9, 1, 3]
    bench.pipeline._publish()
    assert bench.server.counters.snapshot()["core.repeats"] == 3


def test_a_request_that_found_no_room_is_refused_where_nobody_repeats_it():
    """Over a connection there are no repetitions; a datagram comes again by itself."""

    def main(bench, ctx):
        if ctx.request.method == "INFO":
            for number in range(1, 66):
                flow = bench.stream if number == 65 else Flow(bench.listener, *CALLER)
                bench.pipeline.receive(message(number + 10).encode(), flow)

    bench = Guarded(main=main)
    bench.stream = Flow(Listener(1, "tcp", "192.0.2.100", 5060), "192.0.2.9", 4711, 77)
    (refusal,) = bench.receive(message(9, "INFO"))
    assert (refusal.what, refusal.host, refusal.line("CSeq")) == ("503", "192.0.2.9", "CSeq: 75 MESSAGE")
    assert refusal.line("Retry-After") == "Retry-After: 10"


# --- time that passed in a handler


def waits(bench, seconds):
    """What a handler does that parks: others run, time passes."""
    bench.clock(bench.loop.now() + seconds)


def test_an_ack_is_known_for_its_whole_time_after_an_answer_that_took_long():
    seen = []

    def main(bench, ctx):
        seen.append(ctx.request.method)
        waits(bench, 20.0)
        bench.sl.sl_reply(ctx, 404, "No")

    bench = Guarded(main=main)
    (answer,) = bench.receive(request())
    bench.advance(31.0)
    tag = answer.line("To").partition("tag=")[2]
    assert bench.receive(request("ACK", to_tag=tag)) == []
    assert seen == ["INVITE"]


@pytest.mark.parametrize("error", [ProtocolError("no", status=420), ResourceError("full")], ids=["peer", "full"])
def test_the_timers_of_an_answer_that_took_long_have_their_full_length(error):
    def main(bench, ctx):
        bench.tm.t_newtran(ctx)
        waits(bench, 3.0)
        raise error

    bench = Guarded(main=main)
    assert bench.receive(request())[-1].what in {"420", "503"}
    assert bench.advance(0.4) == []
    assert len(bench.advance(0.2)) == 1  # T1 after it was sent


def test_an_answer_that_waited_in_the_onreply_route_starts_timers_from_then():
    def reply(bench, ctx):
        if ctx.status == 404:
            waits(bench, 3.0)

    bench = Guarded(main=lambda b, ctx: b.tm.t_relay(ctx), reply_=reply)
    invite = bench.receive(request())[-1]
    assert names(bench.receive(response(invite, 404), BOB)) == ["ACK 192.0.2.2", "404 192.0.2.1"]
    assert bench.advance(0.4) == []
    assert names(bench.advance(0.2)) == ["404 192.0.2.1"]


# --- who waits for an answer gets one


def test_a_bug_in_the_default_onreply_route_does_not_keep_the_answer_back():
    bench = Guarded(main=lambda b, ctx: b.tm.t_relay(ctx), reply_=lambda _bench, _ctx: bug())
    invite = bench.receive(request())[-1]
    assert names(bench.receive(response(invite, 200), BOB)) == ["200 192.0.2.1"]
    assert len(bench.bugs) == 1


def test_an_answer_goes_on_when_the_onreply_route_finds_it_broken():
    def reply(_bench, _ctx):
        raise ProtocolError("a header the route wanted to read")

    bench = Guarded(main=lambda b, ctx: b.tm.t_relay(ctx), reply_=reply)
    invite = bench.receive(request())[-1]
    assert names(bench.receive(response(invite, 200), BOB)) == ["200 192.0.2.1"]


def test_a_bug_in_a_hook_for_responses_does_not_keep_the_answer_back():
    bench = Guarded(main=lambda b, ctx: b.tm.t_relay(ctx))
    bench.server.hooks.pre_reply.append(lambda _ctx: bool(bug()))
    invite = bench.receive(request())[-1]
    assert names(bench.receive(response(invite, 200), BOB)) == ["200 192.0.2.1"]


def relay_and_arm(what):
    def main(bench, ctx):
        getattr(bench.tm, f"t_on_{what}")(ctx, "r")
        bench.tm.t_relay(ctx)

    return main


def finals(sent):
    """Status of each final answer to the caller."""
    return [item.what for item in sent if item.host == CALLER[0] and item.what >= "200"]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_bug_in_a_failure_route_leaves_the_caller_an_answer(method):
    """The best of the branches', or 500."""
    bench = Guarded(main=relay_and_arm("failure"), failure_r=lambda _bench, _ctx: bug())
    sent = bench.receive(request(method))[-1]
    assert finals(bench.receive(response(sent, 404), BOB)) in (["404"], ["500"])
    assert len(bench.bugs) == 1
    bench.advance(4000)
    assert not bench.layer.servers


def test_a_bug_in_a_failure_route_that_a_timer_brought_leaves_the_caller_an_answer():
    bench = Guarded(main=relay_and_arm("failure"), failure_r=lambda _bench, _ctx: bug())
    bench.receive(request())
    assert set(finals(bench.advance(34))) in ({"408"}, {"500"})  # repeated: nobody acknowledges it
    assert len(bench.bugs) == 1


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_bug_in_an_onreply_route_at_a_final_answer_leaves_nobody_without_one(method):
    bench = Guarded(main=relay_and_arm("reply"), reply_r=lambda _bench, _ctx: bug())
    sent = bench.receive(request(method))[-1]
    assert finals(bench.receive(response(sent, 404), BOB)) in (["404"], ["500"])
    bench.advance(4000)
    assert not bench.layer.servers


def test_a_bug_while_other_branches_ring_ends_nothing():
    """The onreply route of one branch of two fails at a provisional answer: the call goes on."""

    def main(bench, ctx):
        bench.tm.t_on_reply(ctx, "r")
        bench.tm.t_relay(ctx)

    def broken(_bench, ctx):
        if ctx.status == 180:
            bug()

    bench = Guarded(main=main, reply_r=broken)
    invite = bench.receive(request())[-1]
    assert [item.what for item in bench.receive(response(invite, 180), BOB)] in ([], ["180"])
    assert names(bench.receive(response(invite, 200), BOB)) == ["200 192.0.2.1"]


def test_a_bug_after_the_transaction_was_made_is_answered_through_it():
    def main(bench, ctx):
        bench.tm.t_newtran(ctx)
        bug()

    bench = Guarded(main=main)
    assert [item.what for item in bench.receive(request())] == ["100", "500"]
    bench.advance(4000)
    assert not bench.layer.servers


def test_a_replicated_request_that_fails_is_still_answered():
    def main(bench, ctx):
        bench.tm.t_replicate(ctx, "192.0.2.2", 5060)
        raise ResourceError("full")

    bench = Guarded(main=main)
    assert [item.what for item in bench.receive(request("REGISTER"))] == ["REGISTER", "503"]


# --- hooks around the script


@pytest.mark.parametrize("error", [ZeroDivisionError, ResourceError])
def test_what_follows_the_script_follows_it_whatever_happened_there(error):
    def main(_bench, _ctx):
        raise error("!")

    after = []
    bench = Guarded(main=main)
    bench.server.hooks.post_script.append(lambda _ctx: after.append(1))
    bench.receive(request("OPTIONS"))
    assert after == [1]


def test_a_bug_in_one_hook_after_the_script_takes_nothing_from_the_next():
    after = []
    bench = Guarded(main=lambda b, ctx: b.sl.sl_reply(ctx, 200, "OK"))
    bench.server.hooks.post_script += [lambda _ctx: after.append(1), lambda _ctx: bug(), lambda _ctx: after.append(3)]
    bench.receive(request("OPTIONS"))
    assert after == [1, 3]
    assert len(bench.bugs) == 1


def test_a_bug_in_the_onsend_route_leaves_the_rest_of_the_script_as_it_was():
    kinds = []
    bench = Guarded(main=lambda b, ctx: b.tm.t_relay(ctx), onsend=lambda _bench, _ctx: bug())
    bench.server.hooks.post_script.append(lambda ctx: kinds.append((ctx.kind, ctx.out_flow)))
    assert [item.what for item in bench.receive(request())] == ["100", "500"]
    assert kinds == [(REQUEST, None)]
