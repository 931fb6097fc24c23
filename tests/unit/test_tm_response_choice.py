"""Every pair and triple of outcomes of a forked request, in every order of arrival, against RFC 3261 §16.7 written out.

The oracle below is the text of the RFC with the choices SER makes where the RFC leaves one (the lowest code among
equals). It shares nothing with the implementation.
"""

from __future__ import annotations

import itertools

import pytest
from support.receiver import Bench, request, response

from serpy.context.context import Target

HOSTS = ["192.0.2.11", "192.0.2.12", "192.0.2.13"]
OUTCOMES = ["timeout", 200, 302, 401, 404, 407, 408, 415, 420, 480, 484, 486, 487, 500, 503, 603]


def expected(outcomes, method):
    """The final answers that go upstream, in order, for branches that ended with *outcomes*."""
    codes = [408 if each == "timeout" else each for each in outcomes]
    if 200 in codes:
        # step 5: every 2xx to INVITE goes up; anything else is answered once
        return [200] * codes.count(200) if method == "INVITE" else [200]
    if method != "INVITE" and set(codes) == {408}:
        return []  # RFC 4320 §4.2: silence
    if method != "INVITE":
        codes = [code for code in codes if code != 408]
    # step 6: 6xx before everything, else the lowest class, and in 4xx what helps to try again
    if 603 in codes:
        return [603]
    lowest_class = min(code // 100 for code in codes)
    chosen_from = [code for code in codes if code // 100 == lowest_class]
    helpful = [code for code in chosen_from if code in (401, 407, 415, 420, 484)]
    best = min(helpful or chosen_from)
    return [500 if best == 503 else best]  # the proxy itself is not overloaded


def expected_realms(outcomes, answer):
    """Step 7: a 401 or 407 carries the challenges of all branches."""
    if answer not in (401, 407):
        return []
    return sorted(str(index) for index, each in enumerate(outcomes) if each in (401, 407))


def main(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    ctx.request_uri = f"sip:bob@{HOSTS[0]}"
    ctx.branches.extend(Target(f"sip:bob@{host}") for host in HOSTS[1 : bench.count])
    bench.tm.t_relay(ctx)


def challenge(index, status):
    name = {401: "WWW-Authenticate", 407: "Proxy-Authenticate"}.get(status)
    return (f'{name}: Digest realm="{index}", nonce="n"',) if name else ()


class Fork:
    """One forked request on *bench*; collects what goes upstream and to each branch."""

    numbers = itertools.count()

    def __init__(self, bench, count, method, *, ringing):
        self.bench, self.method = bench, method
        bench.count = count
        self.id = f"fork-{next(self.numbers)}"
        self.finals = []
        self.acks = dict.fromkeys(HOSTS, 0)
        self.cancels = dict.fromkeys(HOSTS, 0)
        sent = self.take(bench.receive(request(method, branch=f"z9hG4bK{self.id}", call_id=self.id)))
        self.branches = [item for item in sent if item.what == method]
        if ringing:
            for branch in self.branches:
                self.take(bench.receive(response(branch, 180), (branch.host, 5060)))

    def answer(self, index, status):
        branch = self.branches[index]
        text = response(branch, status, to_tag=f"t{index}", extra=challenge(index, status))
        self.take(self.bench.receive(text, (branch.host, 5060)))

    def advance(self, seconds):
        """Let time pass from timer to timer, so that an answer is acknowledged before it would be repeated."""
        bench = self.bench
        end = bench.loop.now() + seconds
        while (at := bench.pipeline.next_timer_at()) <= end:
            self.take(bench.advance(max(0.0, at - bench.loop.now()) + 1e-5))

    def take(self, sent):
        for item in sent:
            if item.host != "192.0.2.1":
                self.acks[item.host] += item.what == "ACK"
                self.cancels[item.host] += item.what == "CANCEL"
                if item.what == "CANCEL":  # the peer takes note of it and stays as it is
                    self.take(self.bench.receive(response(item, 200), (item.host, 5060)))
                continue
            if item.what >= "200" and item.what != self.method:
                self.finals.append(item)
                if self.method == "INVITE" and item.what >= "300":  # acknowledged: not repeated
                    tag = item.line("To").partition("tag=")[2]
                    ack = request("ACK", branch=f"z9hG4bK{self.id}", call_id=self.id, to_tag=tag)
                    assert self.bench.receive(ack) == []
        return sent


def check(bench, outcomes, order, method, *, ringing):
    what = f"{outcomes} arriving as {order}, {method}{', ringing' if ringing else ''}"
    fork = Fork(bench, len(outcomes), method, ringing=ringing)
    assert len(fork.branches) == len(outcomes), what
    for index in order:
        if outcomes[index] != "timeout":
            fork.answer(index, outcomes[index])
    fork.advance(300)
    answers = [int(item.what) for item in fork.finals]
    assert answers == expected(outcomes, method), what
    if answers:
        lines = fork.finals[0].lines("WWW-Authenticate") + fork.finals[0].lines("Proxy-Authenticate")
        assert sorted(line.partition('realm="')[2][:1] for line in lines) == expected_realms(outcomes, answers[0]), what
    if method == "INVITE":
        for index, outcome in enumerate(outcomes):
            assert fork.acks[HOSTS[index]] == (isinstance(outcome, int) and outcome >= 300), what
            if not ringing:
                assert fork.cancels[HOSTS[index]] == 0, what  # §9.1: not before a provisional
            elif outcome == "timeout":
                assert fork.cancels[HOSTS[index]] == 1, what
    assert not bench.layer.servers, what
    assert not bench.layer.clients, what


@pytest.mark.parametrize("ringing", [False, True], ids=["silent", "ringing"])
@pytest.mark.parametrize("one", OUTCOMES, ids=str)
def test_two_branches_of_an_invite(one, ringing):
    bench = Bench(main=main)
    for two in OUTCOMES:
        for order in itertools.permutations(range(2)):
            check(bench, (one, two), order, "INVITE", ringing=ringing)


@pytest.mark.parametrize("one", OUTCOMES, ids=str)
def test_two_branches_of_another_request(one):
    bench = Bench(main=main)
    for two in OUTCOMES:
        for order in itertools.permutations(range(2)):
            check(bench, (one, two), order, "MESSAGE", ringing=False)


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations_with_replacement(OUTCOMES, 2)), ids=str)
def test_three_branches_of_an_invite(one, two):
    bench = Bench(main=main)
    for three in OUTCOMES[OUTCOMES.index(two) :]:
        for order in itertools.permutations(range(3)):
            check(bench, (one, two, three), order, "INVITE", ringing=order[0] == 0)
