"""What strangers sent makes no line that nobody wrote: header lines, status lines, numbers and texts of scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.contexts import context as message_context
from support.contexts import request_text, sent_values
from support.scripts import run

from serpy.context.avps import FROM_URI, TEXT_MAX, VALUES_MAX, Avps
from serpy.context.context import REQUEST as REQUEST_ROUTE
from serpy.errors import ConfigError
from serpy.loader import load
from serpy.modules.exec.environment import environment_of
from serpy.script.scalars import divide, to_int, wrap
from serpy.sip.own_lines import OwnLines
from serpy.sip.text import header_value, reason_text
from serpy.sip.writer import build_reply

REQUEST = message_context(request_text()).request


@given(st.text())
def test_no_reason_makes_a_second_line(reason):
    data = build_reply(REQUEST, 400, reason, to_tag="x")
    first, _, rest = data.partition(b"\r\n")
    assert first.startswith(b"SIP/2.0 400 ")
    assert not any(byte < 32 or byte == 127 for byte in first)
    assert rest.startswith(b"Via: ")


@given(st.text())
def test_no_value_makes_a_second_line(text):
    assert not set(header_value(text)) & {"\r", "\n", "\0"}


def test_controls_at_the_end_of_a_reason_are_cut():
    assert reason_text("checked\n") == "checked"
    assert reason_text("OK\r\nX-Extra: 1") == "OK  X-Extra: 1"


@pytest.fixture
def compiled(tmp_path):
    def compile_(body):
        path = tmp_path / "a.conf"
        path.write_text(f'loadmodule "sl"\nloadmodule "tm"\nloadmodule "textops"\nroute {{\n{body}\n}}\n')
        return load(str(path), {}, check_only=True).program

    return compile_


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('append_hf("X-A: %$f.v\\r\\n");', id="a-format"),
        pytest.param('append_hf("X-A: " + $f.v + "\\r\\n");', id="a-sum"),
        pytest.param('insert_hf("X-A: %@hf_value.subject\\r\\n");', id="a-select"),
    ],
)
def test_only_what_the_script_writes_makes_header_lines(compiled, text):
    ctx = message_context(request_text("Subject: x\r\n folded"))
    ctx.avps.add(FROM_URI, "v", "a\r\nEvil: 1\0")
    compiled(text).run(ctx, REQUEST_ROUTE)
    assert len(sent_values(ctx, "X-A")) == 1
    assert sent_values(ctx, "Evil") == []


@pytest.mark.parametrize("text", ['"%$f.v"', "$f.v"])
def test_lines_that_a_module_has_made_are_header_lines(compiled, text):
    ctx = message_context(request_text())
    ctx.avps.add(FROM_URI, "v", OwnLines("A: b\r\nC: d\r\n"))
    compiled(f"append_to_reply({text});").run(ctx, REQUEST_ROUTE)
    assert ctx.reply_headers == ["A: b", "C: d"]


@pytest.mark.parametrize("code", ["two hundred", "99", "700", "20"])
def test_a_status_that_is_none_is_an_error_of_the_file(compiled, code):
    with pytest.raises(ConfigError, match="is no status"):
        compiled(f'sl_reply("{code}", "OK");')


def test_a_reason_with_a_line_end_is_a_warning(compiled):
    assert any("reason phrase" in text for text in compiled('sl_reply("200", "OK\\r\\n");').warnings)


def test_controls_reach_no_program():
    ctx = message_context(request_text("Subject: a\x1b[2J\tb"))
    assert environment_of(ctx, with_message=True)[b"SIP_HF_SUBJECT"] == b"a [2J b"


# ---- numbers


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("2147483647 + 1 == -2147483647 - 1", True), ("1 << 31 == -2147483647 - 1", True), ("1 << 32 == 0", True),
        ("65536 * 65536 == 0", True), ('(int)"99999999999" == 2147483647', True), ('(int)"-99999999999" == -2147483647 - 1', True),
        ("5 mod 0 == 0", True), ("5 / 0 == 0", True),
    ],
)  # fmt: skip
def test_numbers_have_32_bits(condition, expected):
    ctx, _ = run(f"if ({condition}) {{ setflag(31); }}")
    assert bool(ctx.flags & (1 << 31)) is expected


@given(st.integers(-(2**40), 2**40))
def test_a_number_wraps_as_in_c(number):
    assert -(2**31) <= wrap(number) < 2**31
    assert (wrap(number) - number) % 2**32 == 0


def test_the_smallest_number_divided_by_minus_1_is_itself():
    assert divide(-(2**31), -1) == -(2**31)
    assert to_int("1" * 18) == 2**31 - 1


# ---- growth


def test_a_loop_that_doubles_a_text_ends_at_the_size_of_a_message():
    ctx, _ = run('$f.x = "0123456789"; while (1) { $f.x = $f.x + $f.x; }')
    assert len(ctx.avps.newest(FROM_URI, "x")) == TEXT_MAX


def test_an_attribute_has_so_many_values():
    avps = Avps()
    for number in range(VALUES_MAX + 10):
        avps.add(FROM_URI, "x", number)
    values = avps.get(FROM_URI, "x")
    assert (len(values), values[0].value) == (VALUES_MAX, VALUES_MAX + 9)
