"""The 49 messages of RFC 4475 over UDP to a running server: each gets its outcome, no process dies, no traceback.

The .toml beside each message says what the RFC asks of an element that gets so far. What must be refused is refused
with that status. What is legal meets the policy of etc/serpy.conf, which ANSWERED lists with the reason.
"""

from __future__ import annotations

import select
import socket
import tomllib
from pathlib import Path

import pytest
from support.running import Running, wait_for

TORTURE = Path(__file__).parent.parent / "corpus" / "torture"
CASES = sorted(path.stem for path in TORTURE.glob("*.sip"))
NO_USER = (404, "to a user of example.com that does not exist")
CHALLENGE = (407, "the caller claims to be a user of example.com")
REGISTER = (401, "a REGISTER for example.com without credentials")
PASSED_BY = (0, "a response to nobody's request: passed by its next Via, or dropped")
ANSWERED = {
    "badbranch": NO_USER,
    "baddate": NO_USER,
    "cparam01": REGISTER,
    "cparam02": REGISTER,
    "dblreq": REGISTER,
    "esc01": (403, "neither example.net nor the caller's domain is served here"),
    "esc02": (407, "RE%47IST%45R is no REGISTER, so it is a request of a user of example.com"),
    "escnull": REGISTER,
    "intmeth": CHALLENGE,
    "inv2543": NO_USER,
    "invut": NO_USER,
    "longreq": NO_USER,
    "lwsdisp": CHALLENGE,
    "mpart01": CHALLENGE,
    "noreason": PASSED_BY,
    "regaut01": (401, "a scheme we do not know is no credentials"),
    "regescrt": REGISTER,
    "sdp01": NO_USER,
    "semiuri": (404, "the user part is all of user;par=u@example.net, which does not exist"),
    "transports": CHALLENGE,
    "unksm2": (401, "who registers is asked before what is registered"),
    "unreason": PASSED_BY,
    "wsinv": (481, "in a dialog that does not run through this server"),
}


@pytest.fixture(scope="module")
def torture_server(tmp_path_factory):
    """A server for example.com with one user, and the pids of its processes."""
    running = Running(tmp_path_factory.mktemp("torture")).prepare("alice").start()
    wait_for(lambda: "serpy: ctl" in running.children())  # the last to take its title
    pids = running.children()
    yield running
    assert running.children() == pids
    assert running.stop() == 0
    log = running.log.read_text()
    assert "Traceback" not in log
    assert "bug" not in log


def answers_to(server: Running, data: bytes) -> list[bytes]:
    """What comes back to the sender before the answer to an OPTIONS that was sent behind *data*.

    The two may be handled by different processes; so the wait ends with the second of OPTIONS for both.
    """
    probes = [b"a", b"b", b"c", b"d"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(data, server.address)
        port = sock.getsockname()[1]
        for name in probes:
            call = b"probe-%s-%d" % (name, port)
            sock.sendto(
                b"OPTIONS sip:127.0.0.1:%d SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:%d;branch=z9hG4bK%s\r\n"
                b"From: <sip:probe@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1:%d>\r\nCall-ID: %s\r\nCSeq: 1 OPTIONS\r\n"
                b"Max-Forwards: 9\r\nContent-Length: 0\r\n\r\n" % (server.port, port, call, server.port, call),
                server.address,
            )
        found, seen = [], 0
        while seen < len(probes):
            assert select.select([sock], [], [], 5.0)[0], "the server no longer answers OPTIONS"
            answer = sock.recv(65536)
            if b"probe-" in answer:
                seen += 1
            else:
                found.append(answer)
        while select.select([sock], [], [], 0.05)[0]:
            found.append(sock.recv(65536))
        return found


def test_the_table_knows_only_messages_of_the_rfc():
    assert len(CASES) == 49
    assert set(ANSWERED) <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_each_message_of_rfc_4475_gets_its_outcome(torture_server, name):
    expected = tomllib.loads((TORTURE / f"{name}.toml").read_text(encoding="utf-8"))
    data = (TORTURE / f"{name}.sip").read_bytes()
    status, why = ANSWERED.get(name, (expected["status"], f"RFC 4475 section {expected['section']}"))
    statuses = {int(answer.split(b" ", 2)[1]) for answer in answers_to(torture_server, data)} - {100}
    assert statuses == ({status} if status else set()), why


def test_an_unknown_extension_is_named(torture_server):
    (answer,) = answers_to(torture_server, (TORTURE / "bext01.sip").read_bytes())
    assert answer.startswith(b"SIP/2.0 420 ")
    for tag in (b"noProxiesSupportThis", b"norDoAnyProxiesSupportThis"):
        assert tag in answer
    assert b"nothingSupportsThis" not in answer
