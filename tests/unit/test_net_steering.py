"""One definition of the owner of a Call-ID: in Python and in the kernel."""

from __future__ import annotations

import random
import socket
import string
import struct
from collections import Counter

import pytest

from serpy.net.steering import MAX_INSTRUCTIONS, attach_program, build_program, owner


def test_the_hash_stops_at_white_space_and_after_24_bytes():
    assert owner(b"abc\r\nVia: x", 1000) == owner(b"abc", 1000)
    assert owner(b"a" * 24 + b"b", 1000) == owner(b"a" * 24 + b"c", 1000)
    assert owner(b"a" * 23 + b"b", 1000) != owner(b"a" * 23 + b"c", 1000)


def test_one_child_owns_everything():
    assert {owner(bytes([number]), 1) for number in range(256)} == {0}


@pytest.mark.parametrize("children", [2, 3, 4, 7, 8])
def test_call_ids_are_spread_evenly(children):
    rng = random.Random(7)
    counts = Counter(owner(f"{rng.getrandbits(64):016x}@host".encode(), children) for _ in range(4000))
    assert set(counts) == set(range(children))
    assert max(counts.values()) < 1.3 * 4000 / children


def test_the_program_stays_within_the_limit_of_the_kernel():
    assert len(build_program(256, 15, 760)) // 8 <= MAX_INSTRUCTIONS


def test_every_jump_of_the_program_stays_inside_it():
    program = build_program(4, 15, 760)
    code = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    for at, (operation, true, false, k) in enumerate(code):
        if operation & 0x07 == 0x05:
            reach = max(true, false, k if operation == 0x05 else 0)
            assert at + 1 + reach < len(code)


@pytest.fixture
def steered():
    sockets = []
    port = 0
    for _ in range(4):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        port = sock.getsockname()[1]
        sockets.append(sock)
    if not attach_program(sockets[0], 4):
        pytest.skip("this kernel takes no reuseport program")
    yield sockets, port
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("header", ["Call-ID: ", "call-id:", "CALL-ID:  ", "Call-ID:\t", "i: "])
def test_the_kernel_delivers_to_the_owner(steered, header):
    sockets, port = steered
    rng = random.Random(header)
    letters = string.ascii_letters + string.digits + "-@.%"
    wrong = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(200):
            call_id = "".join(rng.choice(letters) for _ in range(rng.randint(1, 40)))
            via = "z" * rng.randint(0, 600)
            text = f"INVITE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch={via}\r\n{header}{call_id}\r\nCSeq: 1 INVITE\r\n\r\n"
            sender.sendto(text.encode(), ("127.0.0.1", port))
            expected = 0 if "\t" in header else owner(call_id.encode(), 4)  # a tab: left to the hand-off
            try:
                assert sockets[expected].recv(70000) == text.encode()
            except BlockingIOError:
                wrong.append(call_id)
    assert wrong == []


def test_a_datagram_without_a_call_id_lands_on_the_first_socket(steered):
    sockets, port = steered
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"\r\n\r\n", ("127.0.0.1", port))
        assert sockets[0].recv(100) == b"\r\n\r\n"
