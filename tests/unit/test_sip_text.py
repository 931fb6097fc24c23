"""Text of strangers at the last step: a terminal, a log and a header line obey nothing in it."""

from __future__ import annotations

import pytest

from serpy.sip.text import header_value, printable


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


def test_a_value_makes_no_second_header_line() -> None:
    assert header_value("a\r\nX: y\x00z") == "a  X: y z"
