"""The transaction layer under any order of events: nobody gets two final answers, everybody gets one, nothing stays for ever.

One receiver without sockets, whose clock the rules move. Callers send, repeat, cancel and acknowledge; peers answer, answer
again, or are out of reach; scripts fork, fork again after a failure without end, answer themselves, or do nothing. Any
handler may wait for as long as it likes, the process may stand still, and the system clock may be set.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.receiver import CALLER, Bench, request, response

from serpy.context.context import Target

STATUSES = [100, 180, 183, 200, 202, 302, 401, 407, 408, 404, 415, 480, 486, 487, 500, 503, 600, 603]
SCRIPTS = [
    "relay",
    "relay",
    "relay",
    "name",
    "failure",
    "failure",
    "endless",
    "endless",
    "reply",
    "newtran",
    "nothing",
    "replicate",
    "late",
    "release",
]
ANSWERED = {"relay", "name", "failure", "endless", "reply", "newtran", "late"}  # whoever calls INVITE there must hear
HOSTS = [f"192.0.2.{number}" for number in range(11, 17)]
HANDLERS = ["main", "failure", "reply", "branch", "name", "database"]
PARKS = [0.2, 3.0, 40.0]
LONGEST_S = 1500.0  # more than every timer of a transaction that is left alone
MAX_BRANCHES = 12


class Caller:
    """What one caller knows about its request, and what the server does with it."""

    def __init__(self, number, method, script, hosts, parks):
        self.id = f"call-{number}"
        self.method = method
        self.script = script
        self.hosts = hosts
        self.parks = parks  # handler -> seconds it waits each time
        host = "several.example.com" if script == "name" else hosts[0]
        self.text = request(method, branch=f"z9hG4bK{self.id}", call_id=self.id, uri=f"sip:bob@{host}")
        self.finals = []  # different ones, in order
        self.repeats_until = 0.0
        self.attempts = 0
        self.branches = set()  # Via branches of what left for it


def caller_of(bench, ctx):
    return bench.callers[ctx.request.call_id]


def park(bench, ctx, handler):
    bench.park(caller_of(bench, ctx).parks.get(handler, 0.0))


def main(bench, ctx):
    park(bench, ctx, "main")
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    caller = caller_of(bench, ctx)
    tm, script = bench.tm, caller.script
    bench.looking_up = caller
    tm.t_on_reply(ctx, "R")
    tm.t_on_branch(ctx, "B")
    if script == "failure":
        tm.t_on_failure(ctx, "F")
    elif script == "endless":
        tm.t_on_failure(ctx, "E")
    if script in {"relay", "failure", "endless", "name"}:
        if script != "name":
            ctx.branches.extend(Target(f"sip:bob@{host}") for host in caller.hosts[1:])
        tm.t_relay(ctx)
    elif script == "reply":
        tm.t_reply(ctx, 486, "Busy")
    elif script == "newtran":
        tm.t_newtran(ctx)
    elif script == "replicate":
        tm.t_replicate(ctx, caller.hosts[0], 5060)
    elif script == "late":  # the script goes on after relaying
        tm.t_relay(ctx)
        tm.t_reply(ctx, 500, "Changed My Mind")
    elif script == "release":
        tm.t_newtran(ctx)
        tm.t_release(ctx)


def failed(bench, ctx):
    park(bench, ctx, "failure")
    caller = caller_of(bench, ctx)
    caller.attempts += 1
    if caller.attempts < 3:
        ctx.branches.append(Target(f"sip:bob@{HOSTS[caller.attempts]}"))
        bench.tm.t_on_failure(ctx, "F")
        bench.tm.t_relay(ctx)
    elif caller.attempts == 3:
        bench.tm.t_reply(ctx, 480, "Nobody")


def failed_endlessly(bench, ctx):
    park(bench, ctx, "failure")
    caller = caller_of(bench, ctx)
    caller.attempts += 1
    bench.tm.t_on_failure(ctx, "E")
    ctx.request_uri = f"sip:{caller.attempts}@{HOSTS[caller.attempts % len(HOSTS)]}"
    bench.tm.t_relay(ctx)


class Transactions(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.bench = bench = Bench(
            main=main,
            failure_F=failed,
            failure_E=failed_endlessly,
            reply_R=lambda bench, ctx: park(bench, ctx, "reply"),
            branch_B=lambda bench, ctx: park(bench, ctx, "branch"),
        )
        bench.callers = self.callers = {}
        bench.pipeline.forwarder.resolve = self.resolve
        bench.server.hooks.pre_script.append(self.read)
        self.at_peers = []  # what peers have received and may answer, as often as they like

    def resolve(self, _uri):
        self.bench.park(self.bench.looking_up.parks.get("name", 0.0))
        return [("udp", host, 5060) for host in HOSTS[:3]]

    def read(self, ctx):
        park(self.bench, ctx, "database")
        return True

    def take(self, items):
        """Note what callers and peers got."""
        for item in items:
            caller = self.callers[item.line("Call-ID").partition(": ")[2]]
            if (item.host, item.port) != CALLER:
                if item.what != "ACK":
                    self.at_peers.append(item)
                if item.what == caller.method:
                    caller.branches.add(item.lines("Via")[0])
            elif " CANCEL" not in item.line("CSeq"):
                if item.what < "200":
                    assert not caller.finals, f"{item.what} after {caller.finals}"
                elif item.text not in caller.finals:
                    caller.finals.append(item.text)
                    # the final answer may have been lost; the next repetition comes after T2 at most
                    caller.repeats_until = min(caller.repeats_until, self.bench.loop.now() + 4)

    def caller(self, number):
        return list(self.callers.values())[number % len(self.callers)]

    @rule(
        method=st.sampled_from(["INVITE", "INVITE", "MESSAGE", "BYE"]),
        script=st.sampled_from(SCRIPTS),
        hosts=st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3, unique=True),
        parks=st.dictionaries(st.sampled_from(HANDLERS), st.sampled_from(PARKS), max_size=2),
    )
    def a_caller_begins(self, method, script, hosts, parks):
        caller = Caller(len(self.callers), method, script, hosts, parks)
        caller.repeats_until = self.bench.loop.now() + 32
        self.callers[caller.id] = caller
        self.take(self.bench.receive(caller.text))

    @precondition(lambda self: self.callers)
    @rule(number=st.integers(0, 50), what=st.sampled_from(["again", "CANCEL", "CANCEL", "ACK"]))
    def a_caller_goes_on(self, number, what):
        caller = self.caller(number)
        if what == "again":
            if self.bench.loop.now() < caller.repeats_until:
                self.take(self.bench.receive(caller.text))
        elif caller.method == "INVITE" and (what == "CANCEL" or caller.finals):
            last = caller.finals[-1] if what == "ACK" else ""
            to = next((line for line in last.split("\r\n") if line.startswith("To:")), "")
            uri = caller.text.split(" ")[1]
            self.take(
                self.bench.receive(
                    request(what, uri, branch=f"z9hG4bK{caller.id}", call_id=caller.id, to_tag=to.partition("tag=")[2])
                )
            )

    @precondition(lambda self: self.at_peers)
    @rule(back=st.integers(0, 30), status=st.sampled_from(STATUSES), tag=st.sampled_from(["a", "b"]))
    def a_peer_answers(self, back, status, tag):
        item = self.at_peers[-1 - back % len(self.at_peers)]
        self.take(self.bench.receive(response(item, status, to_tag=tag), (item.host, item.port)))

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 2.0, 5.0, 31.0, 64.0, 130.0]))
    def time_passes(self, seconds):
        while seconds > 0:  # in steps: a caller notes when its answer comes
            self.take(self.bench.advance(min(seconds, 0.5)))
            seconds -= 0.5

    @rule(seconds=st.sampled_from([0.2, 3.0, 100.0]))
    def the_process_stands_still(self, seconds):
        self.bench.clock(self.bench.loop.now() + seconds)

    @rule(offset=st.sampled_from([0.0, 1.6e9, 1.7e9, 1.8e9]))
    def the_system_clock_is_set(self, offset):
        self.bench.step_wall_clock(offset)

    @rule(host=st.sampled_from(HOSTS))
    def a_peer_comes_or_goes(self, host):
        self.bench.broken ^= {(host, 5060)}

    @invariant()
    def nobody_has_two_final_answers(self):
        for caller in self.callers.values():
            codes = [int(text.split(" ")[1]) for text in caller.finals]
            if caller.method != "INVITE":
                assert len(codes) <= 1, codes
                assert 408 not in codes  # RFC 4320 §4.2
                continue
            # Several 2xx are several callees, and one may come after a negative answer; anything else only once and first
            negative = [at for at, code in enumerate(codes) if code >= 300]
            assert negative in ([], [0]), codes

    @invariant()
    def nobody_is_forked_without_end(self):
        for caller in self.callers.values():
            if caller.script != "release":  # (a request that is forgotten may come again)
                assert len(caller.branches) <= MAX_BRANCHES, caller.script

    @invariant()
    def a_replica_answers_nobody(self):
        for caller in self.callers.values():
            if caller.script == "replicate" and caller.method != "INVITE":
                assert not caller.finals  # (a 2xx to INVITE is forwarded by its Via when the transaction is gone)

    def teardown(self):
        """Left alone, everything is answered and then forgotten in the end."""
        self.bench.broken.clear()
        self.take(self.bench.advance(LONGEST_S))
        self.nobody_has_two_final_answers()
        self.nobody_is_forked_without_end()
        layer = self.bench.layer
        assert not layer.servers
        assert not layer.clients
        assert len(layer.wheel) == 0
        assert len(self.bench.parking) == 0
        assert self.bench.pipeline.order.is_idle()
        for caller in self.callers.values():
            if caller.method == "INVITE" and caller.script in ANSWERED:
                assert caller.finals, caller.script


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
