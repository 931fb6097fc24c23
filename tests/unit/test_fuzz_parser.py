"""The oracle of the fuzzer says of what was written whether that is what was read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def oracle():
    spec = importlib.util.spec_from_file_location("fuzz_parser", TOP / "bench" / "fuzz_parser.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.is_written_as_read


@pytest.mark.parametrize(
    ("data", "written"),
    [
        pytest.param(b"a\r\nb\r\n", b"a\r\nb\r\n", id="the-same"),
        pytest.param(b"a\r\nb\r\nmore", b"a\r\nb\r\n", id="without-what-follows-the-body"),
        pytest.param(b"l: 1\r\nL : 1\r\nb\r\n", b"l: 1\r\nb\r\n", id="a-second-length-left-out"),
        pytest.param(b"l: 1\r\nl:\r\n 1\r\nb\r\n", b"l: 1\r\nb\r\n", id="a-folded-one-left-out"),
        pytest.param(b"l: 1\r\nl: 1\r\n\r\nl: 1\r\nc", b"l: 1\r\n\r\nl: 1", id="the-body-ends-in-a-line-like-a-length"),
    ],
)
def test_what_was_read_and_written_is_recognised(oracle, data, written):
    assert oracle(data, written)


@pytest.mark.parametrize(
    ("data", "written"),
    [
        pytest.param(b"a\r\nb\r\n", b"a\r\nc\r\n", id="another-line"),
        pytest.param(b"a\r\nb\r\n", b"b\r\n", id="a-line-left-out"),
        pytest.param(b"a\r\nb\r\n", b"a\r\nb\r\nc", id="something-added"),
        pytest.param(b"l: 1\r\nl: 1\r\nb\r\n", b"l: 1\r\nc\r\n", id="another-line-behind-a-length"),
    ],
)
def test_what_differs_is_seen(oracle, data, written):
    assert not oracle(data, written)
