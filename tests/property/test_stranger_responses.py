"""No response of a stranger ever leaves, however close to ours its branch comes; and none of the script's routes sees it."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from support.receiver import Bench, request, response

BENCH = Bench(
    main=lambda b, ctx: (
        b.tm.t_relay(ctx) if ctx.request.method == "INVITE" else b.pipeline.script_forward(ctx, "", 0, "udp")
    ),
    reply=lambda _b, ctx: SEEN.append(ctx.status),
)
SEEN: list[int] = []
SENT = [
    BENCH.receive(request(method, call_id="call-1", branch=f"z9hG4bK{method}"))[-1] for method in ("INVITE", "MESSAGE")
]
BRANCHES = [sent.line("Via").partition("branch=")[2] for sent in SENT]
PIECES = st.one_of(
    st.text("0123456789abcdefns.", max_size=40),
    st.sampled_from([part for each in BRANCHES for part in each.split(".")]),
)
STRANGE = st.one_of(
    st.builds("z9hG4bK{}".format, st.text("0123456789abcdefns.", max_size=90)),
    st.builds(".".join, st.lists(PIECES, min_size=1, max_size=6)),
    st.builds(lambda each, at, put: each[: at % len(each)] + put + each[at % len(each) + 1 :], st.sampled_from(BRANCHES),
              st.integers(0, 200), st.text("0123456789abcdefns.", max_size=3)),
)  # fmt: skip
# The sealed part is what counts: whoever has it, and the Call-ID, was sent the request.
SEALS = [branch.rpartition(".")[2] for branch in BRANCHES]


@given(
    st.sampled_from(SENT),
    STRANGE,
    st.sampled_from(["call-1", "call-2"]),
    st.sampled_from([100, 180, 200, 302, 486, 603]),
)
def test_a_branch_that_we_have_not_sealed_for_that_call_leads_nowhere(sent, branch, call_id, status):
    ours = sent.line("Via").partition("branch=")[2]
    if call_id == "call-1" and branch.rpartition(".")[2].lower() in SEALS:
        return
    text = response(sent, status).replace(ours, branch, 1).replace("Call-ID: call-1", f"Call-ID: {call_id}")
    SEEN.clear()
    assert BENCH.receive(text, ("198.51.100.66", 6666)) == []
    assert SEEN == []
