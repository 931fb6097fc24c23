"""Text of strangers at the last step: a terminal, a log and a header line obey nothing in it."""

from __future__ import annotations

import pytest

from serpy.sip.own_lines import OwnLines
from serpy.sip.text import header_value, one_line, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Hällo wörld", "Hällo wörld"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\tc", r"a\x0d\x0ab\x09c"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("abc\u202edef", r"abc\u202edef"),
        ("x\u2028y", r"x\u2028y"),
        ("lone \udcff", r"lone \udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, seen: str) -> None:
    assert printable(text) == seen


def test_several_lines_of_ours_stay_several_lines() -> None:
    assert printable_lines("a\x1b\nb\r") == "a\\x1b\nb\\x0d"


def test_a_line_of_a_log_keeps_its_tabs_and_has_no_ends() -> None:
    assert one_line("a\tb\r\nc\x1b\u202e") == "a\tb\\r\\nc\\x1b\\u202e"


def test_a_value_makes_no_second_header_line() -> None:
    assert header_value("a\r\nX: y\x00z") == "a  X: y z"


def test_header_lines_that_we_have_made_keep_their_ends_and_what_is_made_of_them_does_not():
    lines = OwnLines("A: b\r\nC: d\r\n")
    assert header_value(lines) == "A: b\r\nC: d\r\n"
    assert header_value(lines + "e") == "A: b  C: d  e"
