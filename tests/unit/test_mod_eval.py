"""The stack machine: positions, locations, operators, and an empty stack for every message."""

import pytest
from support.contexts import configure, context, function, request_text, select, server

from serpy.api import UsageError
from serpy.context.avps import FROM_URI
from serpy.modules import eval as module
from serpy.modules.eval.oper import OPERATORS, to_int


class Stack:
    """One loaded instance and one message."""

    def __init__(self):
        self.server = server()
        self.exports = configure(module.exports(), self.server)
        self.ctx = context(request_text("Min-SE: 120"))

    def __getattr__(self, name):
        return lambda *args: function(self.exports, f"eval_{name}")(self.ctx, *args)

    @property
    def items(self):
        return self.exports.module.stack

    def read(self, prefix, *parts):
        return select(self.exports, prefix, *parts)(self.ctx)


@pytest.fixture
def stack():
    return Stack()


def test_push_adds_at_the_bottom_and_insert_on_top(stack):
    assert [stack.push(1), stack.push(2), stack.insert(0), stack.push(9, 0), stack.insert(8, -1)] == [1] * 5
    assert stack.items == [0, 9, 1, 8, 2]


def test_positions_that_do_not_exist_are_false(stack):
    assert [stack.remove(), stack.put(1), stack.get("$a"), stack.pop("$a"), stack.xchg(0, 1)] == [-1] * 5
    stack.push(1)
    assert [stack.push(1, 3), stack.insert(1, -2), stack.oper("+", 0), stack.oper("+", 5)] == [-1] * 4
    assert stack.items == [1]


@pytest.mark.parametrize(
    ("location", "value"),
    [
        pytest.param(7, 7, id="number"),
        pytest.param("-7", -7, id="numeric-text"),
        pytest.param("word", "word", id="text"),
        pytest.param("s:7", "7", id="forced-text"),
        pytest.param("x:m=%rm", "m=INVITE", id="format"),
        pytest.param("f:time", 1_700_000_000, id="time"),
        pytest.param("f:stackno", 0, id="stack-size"),
        pytest.param("$a", "attr", id="attribute"),
    ],
)
def test_locations(stack, location, value):
    stack.ctx.avps.add(FROM_URI, "a", "attr")
    assert stack.push(location) == 1
    assert stack.items == [value]


def test_undefined_values_are_not_pushed(stack):
    assert [stack.push("$none"), stack.push("r:none")] == [-1, -1]
    assert stack.items == []


def test_an_unknown_function_is_the_scripts_fault(stack):
    with pytest.raises(UsageError):
        stack.push("f:nothing")
    with pytest.raises(UsageError):
        stack.oper("frobnicate")


def test_items_go_to_attributes_and_registers(stack):
    stack.push(5)
    stack.push("x")
    assert stack.get("$a", 0) == 1
    assert stack.pop("r:one", -1) == 1
    assert stack.items == [5]
    assert stack.ctx.avps.newest(FROM_URI, "a") == 5
    assert stack.read("eval.reg", "one") == "x"
    assert stack.read("eval.reg", "two") is None
    assert stack.push("r:one") == 1
    with pytest.raises(UsageError):
        stack.get("word")


def test_put_xchg_remove_clear(stack):
    for value in (1, 2, 3, 4):
        stack.push(value)
    assert stack.put("new", 1) == 1
    assert stack.xchg(0, -1) == 1
    assert stack.items == [4, "new", 3, 1]
    assert stack.remove(1, 2) == 1
    assert stack.items == [4, 1]
    assert stack.clear() == 1
    assert stack.items == []


def test_the_session_timer_pattern(stack):
    stack.push("1800")
    stack.oper("(int)", -1)
    stack.push("90")
    stack.oper("(int)", -1)
    assert stack.oper(">=", -2) == 1
    assert stack.read("eval.pop", -1) == "1"
    assert stack.read("eval.pop", -1) is None


def test_reading_with_get_leaves_the_item(stack):
    stack.push(3)
    assert [stack.read("eval.get", 0), stack.read("eval.get"), stack.read("eval.get", 5)] == ["3", "3", None]
    assert len(stack.read("eval.uuid")) == 36


@pytest.mark.parametrize(
    ("prefix", "parts"), [("eval.pop", ("x",)), ("eval.get", (1, 2)), ("eval.reg", ()), ("eval.uuid", (1,))]
)
def test_bad_select_parts_are_refused(stack, prefix, parts):
    with pytest.raises(ValueError, match=r"write|nothing"):
        stack.read(prefix, *parts)


def test_the_stack_is_empty_for_the_next_message(stack):
    stack.push(1)
    for hook in stack.server.hooks.post_script:
        hook(stack.ctx)
    assert stack.items == []


def test_the_stack_has_an_end(stack):
    for number in range(module.MAX_ITEMS):
        assert stack.push(number) == 1
    assert stack.push(1) == -1


def test_several_operators_run_in_turn(stack):
    for value in (2, 3, 4):
        stack.push(value)
    assert stack.oper("+,*,neg", 0) == 1
    assert stack.items == [-20]


@pytest.mark.parametrize(
    ("name", "operands", "result"),
    [
        ("+", [2, "3"], 5), ("-", [2, 3], -1), ("*", [2, 3], 6), ("/", [-7, 2], -3), ("/", [1, 0], None),
        ("%", [-7, 2], -1), ("%", [1, 0], None), ("neg", [2], -2), ("abs", [-2], 2), ("sgn", [-9], -1),
        ("dec", [1], 0), ("inc", [2**63 - 1], -(2**63)), ("&", [6, 3], 2), ("|", [6, 3], 7), ("^", [6, 3], 5),
        ("~", [0], -1), ("&&", [1, 2], 1), ("||", [0, 0], 0), ("!", [0], 1), ("==", ["a", "a"], 1),
        ("==", ["1", 1], 1), ("!=", ["a", "b"], 1), (">", ["10", "9"], 0), (">", ["10", 9], 1), (">=", [9, 9], 1),
        ("<", ["a", "b"], 1), ("<=", [10, 9], 0), ("concat", ["a", 1], "a1"), ("substr", ["abcdef", 1, 2], "bc"),
        ("substr", ["abcdef", -2, -1], "ef"), ("strdel", ["abcdef", 1, 2], "adef"), ("strlen", ["abc"], 3),
        ("strstr", ["abc", "c"], 2), ("strstr", ["abc", "x"], -1), ("strupper", ["a"], "A"), ("strlower", ["A"], "a"),
        ("value_at", ["a, b,c", 1], "b"), ("value_at", ["a,b", -1], "b"), ("value_at", ["a", 5], None),
        ("value_idx", ["a, B", "b"], 1), ("value_idx", ["a", "x"], -1), ("value_count", ["a,b"], 2),
        ("value_at", ['"x', 0], '"x'), ("(int)", [" 12x"], 12), ("(str)", [5], "5"),
    ],
)  # fmt: skip
def test_operators(name, operands, result):
    operator = OPERATORS[name]
    assert operator.count == len(operands)
    assert operator.run(operands) == result


@pytest.mark.parametrize(("text", "number"), [("", 0), ("-5", -5), ("+5", 5), ("x", 0), ("\u0661", 0), (3, 3)])
def test_texts_as_numbers(text, number):
    assert to_int(text) == number
