"""The head in C is used where it is, and left out when the operator says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serpy.sip import native
from serpy.sip.lines import CANONICAL

ASKS = (
    "from serpy.sip import native, parser\n"
    "message = parser.parse_message(b'OPTIONS sip:h SIP/2.0\\r\\nv: SIP/2.0/UDP h\\r\\n\\r\\n')\n"
    "print(native.READ is None, native.ADDRESS is None, message.names, message.raw_end == len(message.raw))\n"
)


def answer(**environment):
    command = [sys.executable, "-c", ASKS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout.strip()


def test_the_environment_switches_it_off():
    assert answer(SERPY_PURE_HEAD="1") == "True True ['via'] True"


def test_without_the_switch_it_is_there_where_it_was_compiled():
    missing = native.READ is None
    assert answer(SERPY_PURE_HEAD="") == f"{missing} {missing} ['via'] True"


@pytest.mark.skipif(native.READ is None, reason="not compiled")
def test_names_are_the_ones_of_python_and_have_each_spelling():
    for spelled, name in CANONICAL.items():
        for text in (spelled, spelled.upper(), spelled.capitalize()):
            head = native.READ(f"A b SIP/2.0\r\n{text}:0\r\n\r\n".encode())
            assert head[1] == [name]
            assert head[1][0] is sys.intern(name)


@pytest.mark.skipif(native.READ is None, reason="not compiled")
@pytest.mark.parametrize("spelled", ["", "x" * 32])
def test_a_name_that_cannot_be_learned_is_an_error(spelled):
    from serpy.sip import _head

    with pytest.raises(ValueError, match="name"):
        _head.learn(spelled, "x", 0)
    with pytest.raises(TypeError):
        _head.learn("x")
