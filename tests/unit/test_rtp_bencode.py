"""Bencode: what it looks like, and what is refused."""

import pytest

from serpy.errors import ParseError
from serpy.rtp.bencode import decode, encode


@pytest.mark.parametrize(
    ("value", "data", "decoded"),
    [
        pytest.param(0, b"i0e", 0, id="zero"),
        pytest.param(-42, b"i-42e", -42, id="negative"),
        pytest.param("ping", b"4:ping", b"ping", id="text"),
        pytest.param("ä", b"2:\xc3\xa4", b"\xc3\xa4", id="text-is-utf-8"),
        pytest.param("\udcff", b"1:\xff", b"\xff", id="undecodable-bytes-come-back"),
        pytest.param([], b"le", [], id="empty-list"),
        pytest.param(["IP4", 5], b"l3:IP4i5ee", [b"IP4", 5], id="list"),
        pytest.param({"b": 1, "a": b"x"}, b"d1:a1:x1:bi1ee", {b"b": 1, b"a": b"x"}, id="keys-in-order"),
        pytest.param({"d": {"l": [[]]}}, b"d1:dd1:llleeee", {b"d": {b"l": [[]]}}, id="nested"),
    ],
)
def test_both_ways(value, data, decoded):
    assert encode(value) == data
    assert decode(data) == decoded


@pytest.mark.parametrize(
    "data",
    [
        b"", b"i", b"ie", b"i-e", b"i--1e", b"i1", b"i1x2e", b"i" + b"9" * 19 + b"e", b"l", b"li1e", b"d", b"d1:a", b"di1ei2ee",
        b"d1:ae", b"5:abc", b"1", b":", b"-1:a", b"x", b"e", b"i1ei2e", b"1:ab", b"9999999999999999999:a", b"l" * 40 + b"e" * 40,
        "५:abcde".encode(), b"99999999999:a",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_refused(data):
    with pytest.raises(ParseError):
        decode(data)
