"""A run-time error in a route, seen from outside: who calls gets an answer, and the transaction lives on."""

import pytest
from support.receiver import Bench, names, request, response
from support.scripts import World, compile_text

CALLEE = ("192.0.2.2", 5060)
ROUTES = (
    'route { t_on_reply("R"); t_on_failure("F"); t_relay(); } onreply_route[R] { f("x"); } failure_route[F] { f("x"); }'
)
ERRORS = [OSError("x"), AssertionError("x"), RecursionError("x"), KeyError("x"), MemoryError()]


def bench_with(text, error):
    """A receiver that runs *text*, in which ``f`` raises *error*."""
    bench = Bench()
    world = World()

    def fail(_ctx):
        raise error

    def arm(ctx):
        ctx.on_reply, ctx.on_failure = "R", "F"
        return 1

    def answer(ctx):
        return bench.sl.sl_reply(ctx, 404, "Nobody")

    world.results.update(f=fail, t_relay=bench.tm.t_relay, t_on_reply=arm, sl_reply=answer)
    bench.pipeline.set_program(compile_text(text, world, modules="fake tm sl"))
    return bench


@pytest.mark.parametrize("error", ERRORS[:-1], ids=lambda error: type(error).__name__)
def test_a_request_whose_main_route_fails_is_answered_500(error):
    bench = bench_with('route { f("x"); }', error)
    assert names(bench.receive(request("OPTIONS"))) == ["500 192.0.2.1"]


def test_a_request_for_which_memory_is_lacking_is_answered_503():
    bench = bench_with('route { f("x"); }', MemoryError())
    [answer] = bench.receive(request("OPTIONS"))
    assert answer.what == "503"
    assert answer.line("Retry-After")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("status", [200, 486])
def test_a_final_answer_whose_route_fails_is_passed_on_and_the_transaction_ends(status, error):
    bench = bench_with(ROUTES, error)
    invite = bench.receive(request())[-1]
    finals = [item.what for item in bench.receive(response(invite, status), CALLEE) if item.what != "ACK"]
    wanted = {str(status)} if not isinstance(error, MemoryError) or status == 200 else {"503"}
    assert set(finals) == wanted
    assert len(finals) == 1
    bench.advance(2000)
    assert len(bench.layer.servers) == 0


@pytest.mark.parametrize("way", ["t_relay()", "forward()", 'forward("192.0.2.2", 5060)'])
def test_a_request_that_is_under_way_is_not_answered_when_its_script_fails_behind(way):
    bench = bench_with(f'route {{ {way}; f("x"); }}', OSError("x"))
    assert names(bench.receive(request("MESSAGE"))) == ["MESSAGE 192.0.2.2"]


def test_a_request_that_could_not_be_forwarded_is_answered_when_its_script_fails_behind():
    bench = bench_with('route { forward(); f("x"); }', OSError("x"))
    bench.broken.add(CALLEE)
    assert names(bench.receive(request("MESSAGE"))) == ["500 192.0.2.1"]


def test_a_request_that_was_answered_is_not_answered_again_when_its_script_fails_behind():
    bench = bench_with('route { sl_reply("404", "Nobody"); f("x"); }', OSError("x"))
    assert names(bench.receive(request("MESSAGE"))) == ["404 192.0.2.1"]
