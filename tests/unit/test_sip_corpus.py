"""Every pair of corpus/valid and corpus/invalid: what is read, or which error with which status."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from serpy.errors import ProtocolError
from serpy.sip.message import Request, Response
from serpy.sip.parser import parse_message
from serpy.sip.writer import render

CORPUS = Path(__file__).parent.parent / "corpus"


def _cases(kind):
    return [
        pytest.param(path.read_bytes(), tomllib.loads(path.with_suffix(".toml").read_text("utf-8")), id=path.stem)
        for path in sorted((CORPUS / kind).glob("*.sip"))
    ]


@pytest.mark.parametrize(("data", "expected"), _cases("valid"))
def test_valid_messages_are_read_as_written_beside_them(data, expected):
    message = parse_message(data)
    message.check_mandatory()
    for name in ("call_id", "from_tag", "to_tag", "method", "request_uri", "status", "reason"):
        if name in expected:
            assert getattr(message, name) == expected[name]
    assert isinstance(message, Response if data.startswith(b"SIP/") else Request)
    assert message.via.branch == expected.get("branch", message.via.branch)
    assert len(message.values("via")) == expected.get("via_count", 1)
    assert message.body.decode("latin-1") == expected.get("body", message.body.decode("latin-1"))
    for name, value in expected.get("get", {}).items():
        assert message.get(name) == value
    start = expected.get("leading", 0)
    written = data[start : len(data) - expected.get("trailing", 0)]
    assert render(message) == written.replace(expected.get("left_out", "").encode() or b"\0none", b"")


@pytest.mark.parametrize(("data", "expected"), _cases("invalid"))
def test_invalid_messages_are_refused_with_their_status(data, expected):
    if expected["found_by"] == "parser":
        with pytest.raises(ProtocolError) as caught:
            parse_message(data)
    else:
        message = parse_message(data)
        with pytest.raises(ProtocolError) as caught:
            message.check_mandatory()
    assert caught.value.status == expected["status"]
    assert expected.get("contains", "") in str(caught.value)


@pytest.mark.parametrize(("data", "expected"), _cases("valid"))
def test_cut_messages_are_refused_or_shorter_but_never_a_crash(data, expected):
    outcomes = set()
    for end in range(len(data)):
        try:
            parse_message(data[:end]).check_mandatory()
            outcomes.add("read")
        except ProtocolError as exc:
            outcomes.add(exc.status)
    assert outcomes <= {"read", 400}
