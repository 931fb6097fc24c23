"""STUN on a SIP port (RFC 5389; the first three messages are worked out by hand, XOR with 2112A442 and the id)."""

from __future__ import annotations

import pytest
from support.receiver import Bench

from serpy.sip.flow import Flow
from serpy.sip.stun import SIZE_MAX, binding_response, is_stun

COOKIE = bytes.fromhex("2112a442")
ID = bytes(range(12))
ASK = b"\x00\x01\x00\x00" + COOKIE + ID


def ask(*attributes, kind=b"\x00\x01", cookie=COOKIE):
    body = b"".join(
        name.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for name, value in attributes
    )
    return kind + len(body).to_bytes(2, "big") + cookie + ID + body


@pytest.mark.parametrize(
    ("request_", "host", "port", "attribute"),
    [
        (ASK, "192.0.2.1", 32853, "0020000800 01 a147 e112a643"),
        (ASK, "2001:db8::1", 5060, "0020001400 02 32d6 0113a9fa 00010203 04050607 08090a0a"),
        (ask(cookie=b"old!"), "192.0.2.1", 5060, "0001000800 01 13c4 c0000201"),
        (ask((0x8022, b"phone 1.0"), (0x0024, b"\x00\x00\x00\x01"), (0x8028, b"abcd")), "192.0.2.1", 32853,
         "0020000800 01 a147 e112a643"),
    ],
)  # fmt: skip
def test_a_phone_is_told_its_address(request_, host, port, attribute):
    value = bytes.fromhex(attribute.replace(" ", ""))
    answer = binding_response(request_, host, port)
    assert answer == b"\x01\x01" + len(value).to_bytes(2, "big") + request_[4:20] + value
    assert len(answer) <= 2.2 * len(request_)


def test_what_would_have_to_be_understood_is_named():
    answer = binding_response(ask((0x0003, b"\x00\x00\x00\x06")), "192.0.2.1", 5060)
    assert answer[:2] == b"\x01\x11"
    assert answer[20:] == bytes.fromhex("000900040000 0414 000a 0002 0003 0000".replace(" ", ""))
    many = ask(*[(number, b"") for number in range(0x100, 0x140)])
    assert len(binding_response(many, "192.0.2.1", 5060)) < len(many)


@pytest.mark.parametrize(
    "data",
    [
        b"", ASK[:19], ASK + b"x", ASK + bytes(4), ask(kind=b"\x01\x01"), ask(kind=b"\x00\x11"), ask(kind=b"\x01\x11"),
        ask(kind=b"\x00\x03"), b"\x00\x01\x00\x08" + COOKIE + ID + b"\x80\x22\x00\x09abcd",
        ask((0x8022, bytes(SIZE_MAX))), b"\x80" + ASK[1:],
    ],
)  # fmt: skip
def test_everything_else_is_not_answered(data):
    assert binding_response(data, "192.0.2.1", 5060) == b""


def test_a_receiver_answers_and_counts_a_keepalive_and_nothing_malformed():
    bench = Bench()
    flow = Flow(bench.listener, "192.0.2.7", 40000)
    answer = binding_response(ASK, flow.host, flow.port)
    for data in (ASK, ask(kind=b"\x00\x11"), answer, b"jaK", bytes(40)):
        bench.pipeline.receive(data, flow)
    (sent,) = bench.sent
    assert (sent.flow.host, sent.flow.port, sent.data) == (flow.host, flow.port, answer)
    assert (bench.pipeline.keepalives, bench.pipeline.malformed) == (5, 0)


def test_it_is_asked_over_datagrams_only():
    bench = Bench()
    bench.pipeline.receive(ASK, Flow(bench.listener, "192.0.2.7", 40000, 7))
    assert bench.sent == []
    assert is_stun(ASK)
