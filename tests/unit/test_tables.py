import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpy.rpc.protocol import RpcFault
from serpy.tools import sercmd, serpyctl, tables

TEXT = st.text(st.characters())  # with surrogates, controls, marks of direction
OBEYED = {*range(10), *range(11, 32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F),
          *range(0x2066, 0x206A), 0xFEFF, *range(0xD800, 0xE000)}  # fmt: skip


def obeyed(text):
    """What in *text* a terminal would act on, line ends apart."""
    return [char for char in text if ord(char) in OBEYED]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param([{"agent": "\x1b[2J\x1b]0;title\x07 phone", "contact": "sip:\u202eecila@h"}], id="rows"),
        pytest.param([{"\x1b[2J": "a"}], id="name-of-a-column"),
        pytest.param({"\x1b": "\x9b2J\x7f"}, id="mapping"),
        pytest.param(["a\x1b", "b\x85"], id="list"),
        pytest.param("a\x1b[2J\r", id="text"),
        pytest.param([{"inner": {"x": "\x7f\x1b"}, "lone": "\udc9b"}], id="nested-and-undecodable"),
    ],
)
def test_a_terminal_is_shown_what_strangers_sent_and_obeys_none_of_it(capsys, data, as_json):
    tables.show(data, as_json=as_json)
    out = capsys.readouterr().out
    assert out
    assert obeyed(out) == []


def test_json_for_programs_brings_the_text_as_it_was(capsys):
    rows = [{"agent": "\x1b[2J\x7f\u202e \udc9b\n"}]
    tables.show(rows, as_json=True)
    assert json.loads(capsys.readouterr().out) == rows


def test_a_line_end_in_a_cell_makes_no_row(capsys):
    tables.show([{"agent": "phone\nforged row"}], as_json=False)
    assert capsys.readouterr().out.splitlines()[1:] == ["phone\\x0aforged row"]


@given(TEXT)
def test_no_text_in_any_place_gets_through_the_tables(text):
    for value in ([{text or "x": text}], {text: text}, [text], text, [{"x": [text]}]):
        out = [tables._cell(part) for part in (value if isinstance(value, list) else [value])]
        assert obeyed("".join(out)) == []
        assert all("\n" not in cell for cell in out)


@given(TEXT)
def test_no_text_in_any_place_gets_through_sercmd(text):
    assert obeyed(sercmd.plain([text, [text], {text: text, "in": {text: text}}]).replace("\t", "")) == []
    assert obeyed(sercmd.formatted("%v %v\n", [text, [text.encode("utf-8", "surrogatepass")]])) == []


def test_the_help_of_a_method_keeps_its_lines():
    assert sercmd.plain(["first\nsecond"]) == "first\nsecond\n"
    assert sercmd.plain([{"agent": "first\nsecond"}]) == "{\n\tagent: first\\x0asecond\n}\n"


def test_an_error_text_of_the_server_is_shown_and_not_obeyed(capsys, monkeypatch):
    def refuse(*_words):
        raise RpcFault(404, "no contact \x1b[2J\u202e")

    monkeypatch.setattr(serpyctl.Ctl, "rpc", refuse)
    assert serpyctl.main(["rpc", "any.method"]) == 1
    error = capsys.readouterr().err
    assert "no contact \\x1b[2J\\u202e" in error
    assert obeyed(error) == []


class Refusing:
    address = "unixs:x"

    def call(self, _method, _params):
        raise RpcFault(404, "no contact \x1b[2J")


def test_an_error_text_in_sercmd_is_shown_and_not_obeyed(capsys):
    assert sercmd.Program(Refusing()).run(["any.method"]) == 1
    assert capsys.readouterr().err == "error: 404 - no contact \\x1b[2J\n"


def test_check_lists_what_runs_each_expression(tmp_path, capsys):
    path = tmp_path / "a.conf"
    path.write_text('route { if (uri =~ "^sips?:[0-9]+@" || uri =~ "[a-z]+@") drop; }\n')
    assert serpyctl.main(["check", "--expressions", str(path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(":1:20: re: ^sips?:[0-9]+@")
    assert second.endswith((": RE2: [a-z]+@", ": cut: [a-z]+@"))


def test_a_list_is_shown_line_by_line(capsys):
    tables.show(
        {"who": "a", "last": ["one 3 s ago", "two\x1b"], "also": [], "legs": [{"tag": "x", "n": 1}]}, as_json=False
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["who", "a"], ["last", "one", "3", "s", "ago"], ["two\\x1b"], ["legs", "tag", "x,", "n", "1"]]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [(0, ""), (1, "nat"), (512, "flow"), (513, "nat,flow"), (128, "permanent"), (256 | 4096, "replica,4096")],
)
def test_the_flags_of_a_binding_have_names(flags, shown):
    assert serpyctl._flags(flags) == shown
