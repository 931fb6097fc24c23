"""Max-Forwards counts down once per hop, is added when missing, and ends the journey at zero."""

import pytest
from support.contexts import configure, context, function, reply_text, request_text, sent_values, server

from serpy.modules import maxfwd
from serpy.shm.variables import Variables


def process(ctx, start=10, instance_server=None, **parameters):
    exports = configure(maxfwd.exports(), instance_server or server(), **parameters)
    return function(exports, "mf_process_maxfwd_header")(ctx, start)


@pytest.mark.parametrize(
    ("header", "parameters", "result", "sent"),
    [
        pytest.param(["Max-Forwards: 70"], {}, 1, ["69"], id="it-is-lowered-by-one"),
        pytest.param(["max-forwards : 1"], {}, 1, ["0"], id="one-becomes-zero"),
        pytest.param(["Max-Forwards: 0"], {}, -1, ["0"], id="zero-is-refused"),
        pytest.param([], {}, 1, ["10"], id="a-missing-one-is-added"),
        pytest.param(["Max-Forwards: soon"], {}, 1, ["soon"], id="an-unreadable-one-is-left-alone"),
        pytest.param(["Max-Forwards: 200"], {"max_limit": 20}, 1, ["19"], id="a-high-one-is-cut-to-the-limit-first"),
        pytest.param([], {"max_limit": 5}, 1, ["5"], id="an-added-one-respects-the-limit"),
        pytest.param(["Max-Forwards: 200"], {"max_limit": 0}, 1, ["199"], id="limit-zero-is-no-limit"),
    ],
)
def test_the_header_that_leaves(header, parameters, result, sent):
    ctx = context(request_text(*header))
    assert process(ctx, **parameters) == result
    assert sent_values(ctx, "max-forwards") == sent


def test_argument_zero_stops_the_script_when_the_header_is_missing():
    ctx = context(request_text())
    assert process(ctx, 0) == 0
    assert sent_values(ctx, "max-forwards") == []


def test_a_second_call_counts_from_the_lowered_value():
    ctx = context(request_text("Max-Forwards: 2"))
    assert process(ctx) == 1
    assert process(ctx) == 1
    assert sent_values(ctx, "max-forwards") == ["0"]
    assert process(ctx) == -1


def test_the_limit_can_be_changed_at_run_time():
    exports = maxfwd.exports()
    one = server()
    one.variables = Variables()
    configure(exports, one, max_limit=50)
    assert one.variables.get("maxfwd", "max_limit") == 50
    one.variables.set_now("maxfwd", "max_limit", 30)
    ctx = context(request_text("Max-Forwards: 70"))
    assert function(exports, "process_maxfwd")(ctx, 10) == 1
    assert sent_values(ctx, "max-forwards") == ["29"]


@pytest.mark.parametrize(
    ("header", "result"),
    [
        pytest.param(["Max-Forwards: 3"], 1, id="below"),
        pytest.param(["Max-Forwards: 10"], -1, id="not-below"),
        pytest.param([], -1, id="missing"),
        pytest.param(["Max-Forwards: x"], -1, id="unreadable"),
    ],
)
def test_low_limit_is_true_only_for_a_readable_lower_value(header, result):
    assert function(maxfwd.exports(), "mf_lowlimit")(context(request_text(*header)), 10) == result


def test_only_limits_the_header_can_carry_are_accepted():
    check = maxfwd.exports().params[0].check
    assert [check(value) == "" for value in (0, 255, 256, -1)] == [True, True, False, False]


def test_replies_are_readable_too():
    assert function(maxfwd.exports(), "is_maxfwd_lt")(context(reply_text()), 10) == -1
