"""SIP over TCP (RFC 3261 §18, RFC 5626 §3.5.1): calls, mixed calls, a killed TCP receiver, and clients that misbehave."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time

import pytest
from support.patience import PATIENCE_S
from support.phone import Phone
from support.running import DOMAIN, TOP, Running, wait_for
from support.tcp_phone import TcpPhone

pytestmark = pytest.mark.system

USERS = ("alice", "bob")


class TcpRunning(Running):
    """A server that listens on its port over UDP and TCP."""

    slow: list[TcpPhone]

    def command(self, *extra: str) -> list[str]:
        return [
            word.replace("udp:", "") if word.startswith("udp:127.0.0.1") else word for word in super().command(*extra)
        ]

    def tcp_phone(self, user: str, source: str = "127.0.0.1") -> TcpPhone:
        return TcpPhone(self.address, user, DOMAIN, user, source)

    def tcp_children(self) -> list[int]:
        """The TCP receivers' process ids."""
        return [pid for title, pid in self.children().items() if title.startswith("serpy: tcp receiver")]

    def tcp_info(self) -> dict[str, int]:
        return self.json("rpc", "core.tcp_info")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = TcpRunning(tmp_path_factory.mktemp("tcp"), defines={"TRUSTED": "127.0.0.0/8"}).prepare(*USERS).start()
    running.slow = [running.tcp_phone("alice") for _ in range(100)]  # they are there during all tests
    for phone in running.slow:
        phone.socket.sendall(b"OPTIONS sip:a SIP/2.0\r\nVia: ")
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def phones(server):
    """``phones("alice", "tcp")``: a phone, closed at the end."""
    made = []

    def make(user, transport):
        made.append(server.tcp_phone(user) if transport == "tcp" else server.phone(user))
        return made[-1]

    yield make
    for phone in made:
        with contextlib.suppress(OSError, AssertionError):
            if phone.is_registered:
                phone.pending.clear()
                phone.register(expires=0, contact="*")
        phone.close()


def call(caller, callee):
    """One call from INVITE to BYE; (the INVITE as the callee got it, the 200 as the caller got it)."""
    caller.send(caller.request("INVITE", callee.aor))
    challenge = caller.expect(407)
    caller.send(caller.ack(caller.request("INVITE", callee.aor, cseq=caller.cseq), challenge))
    text = caller.request("INVITE", callee.aor, headers=(caller.authorization(challenge, "INVITE", callee.aor),))
    caller.send(text)
    invite = callee.expect("INVITE")
    callee.reply(invite, 180, "Ringing")
    caller.expect(180)
    callee.reply(invite, 200)
    answer = caller.expect(200)
    caller.send(caller.in_dialog("ACK", text, answer, cseq=caller.cseq))
    callee.expect("ACK")
    caller.send(caller.in_dialog("BYE", text, answer))
    callee.reply(callee.expect("BYE"), 200)
    assert "BYE" in caller.expect(200).get("CSeq")
    return invite, answer


def is_served(phone):
    """True when the server answers OPTIONS of *phone*."""
    phone.send(phone.request("OPTIONS", f"sip:{phone.server[0]}:{phone.server[1]}"))
    return phone.final().status == 200


@pytest.mark.parametrize(
    ("from_", "to"),
    [
        pytest.param("tcp", "tcp", id="tcp-to-tcp"),
        pytest.param("udp", "tcp", id="udp-to-tcp"),
        pytest.param("tcp", "udp", id="tcp-to-udp"),
    ],
)
def test_a_call_crosses_transports_and_each_leg_says_its_own(server, phones, from_, to):
    alice, bob = phones("alice", from_), phones("bob", to)
    assert (alice.register().status, bob.register().status) == (200, 200)
    connected = server.tcp_info()["connected"]
    invite, answer = call(alice, bob)
    vias = [value.split(" ")[0] for value in invite.all("Via")]
    assert vias == [f"SIP/2.0/{to.upper()}", f"SIP/2.0/{from_.upper()}"]
    routes = ", ".join(invite.all("Record-Route")).split(",")
    assert len(routes) == (1 if from_ == to else 2)
    assert ("transport=tcp" in routes[0]) == (to == "tcp")
    assert len(answer.all("Via")) == 1
    assert server.tcp_info()["connected"] == connected  # the phones' own connections were used


def test_requests_of_the_callee_in_the_dialog_reach_the_caller_over_its_connection(phones):
    alice, bob = phones("alice", "tcp"), phones("bob", "udp")
    alice.register()
    bob.register()
    text, _ = None, None
    alice.send(alice.request("INVITE", bob.aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bob.aor, cseq=alice.cseq), challenge))
    text = alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),))
    alice.send(text)
    invite = bob.expect("INVITE")
    bob.reply(invite, 200)
    alice.send(alice.in_dialog("ACK", text, alice.expect(200), cseq=alice.cseq))
    bob.expect("ACK")
    routes = [route.strip() for line in invite.all("Record-Route") for route in line.split(",")]
    bob.send(bob.request(
        "BYE", alice.contact, to=invite.get("From"), from_=bob.aor, call_id=invite.get("Call-ID"),
        headers=tuple(f"Route: {route}" for route in routes),
    ))  # fmt: skip
    alice.reply(alice.expect("BYE"), 200)
    assert bob.expect(200).get("Call-ID") == invite.get("Call-ID")


def test_nothing_is_repeated_over_tcp(phones):
    alice, bob = phones("alice", "udp"), phones("bob", "tcp")
    alice.register()
    bob.register()
    alice.send(alice.request("INVITE", bob.aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bob.aor, cseq=alice.cseq), challenge))
    alice.send(alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),)))
    invite = bob.expect("INVITE")
    assert bob.receive(1.2) is None  # over UDP there were two more by now
    bob.reply(invite, 486, "Busy Here")
    bob.expect("ACK")
    assert alice.expect(486)


def test_a_message_for_udp_gets_the_content_length_it_lacks(phones):
    alice, bob = phones("alice", "udp"), phones("bob", "tcp")
    alice.register()
    bob.register()
    text = alice.request("MESSAGE", bob.aor, from_="sip:carol@foreign.example").replace("Content-Length: 0\r\n", "")
    alice.send(text + "hello")
    message = bob.expect("MESSAGE")
    assert (message.get("Content-Length"), message.split("\r\n\r\n")[1]) == ("5", "hello")
    bob.reply(message, 200)
    alice.expect(200)


def test_an_unreachable_tcp_target_is_answered_by_what_failed_and_not_by_a_timer(phones):
    alice = phones("alice", "udp")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    alice.register(contact=f"<sip:alice@127.0.0.1:{port};transport=tcp>")
    alice.send(alice.request("MESSAGE", alice.aor, from_="sip:carol@foreign.example"))
    assert alice.final().status in (480, 500)


def test_double_crlf_is_answered_by_one(phones):
    phone = phones("alice", "tcp")
    phone.socket.sendall(b"\r\n\r\n")
    phone.socket.settimeout(5)
    assert phone.socket.recv(10) == b"\r\n"


def test_an_answer_finds_the_port_in_via_when_the_connection_has_gone(server, phones):
    """The callee takes the call, but the caller's connection closes first: §18.2.2 has us make one to sent-by."""
    bob = phones("bob", "udp")
    bob.register()
    with socket.socket() as waiting:
        waiting.bind(("127.0.0.1", 0))
        waiting.listen()
        waiting.settimeout(5)
        port = waiting.getsockname()[1]
        caller = server.tcp_phone("carol")
        text = caller.request("MESSAGE", bob.aor, from_="sip:carol@foreign.example")
        caller.send(text.replace(f"127.0.0.1:{caller.port};branch", f"127.0.0.1:{port};branch"))
        message = bob.expect("MESSAGE")
        caller.close()
        wait_for(
            lambda: not any(row["source"].endswith(f":{caller.port}") for row in server.json("rpc", "core.tcp_list"))
        )
        bob.reply(message, 200)
        connection, _ = waiting.accept()
        with connection:
            connection.settimeout(5)
            assert connection.recv(65536).startswith(b"SIP/2.0 200 ")


def test_a_phone_is_called_over_the_connection_it_registered_by_and_then_at_its_contact_by_tcp(server, phones):
    """Its Contact names a port of its own and no transport: RFC 5626 section 5.3, and never a guess at UDP."""
    alice = phones("alice", "udp")
    with socket.socket() as waiting:
        waiting.bind(("127.0.0.1", 0))
        waiting.listen()
        waiting.settimeout(PATIENCE_S)
        bob = server.tcp_phone("bob")
        assert bob.register(contact=f"<sip:bob@127.0.0.1:{waiting.getsockname()[1]}>").status == 200
        alice.send(alice.request("MESSAGE", bob.aor, from_="sip:carol@foreign.example"))
        bob.reply(bob.expect("MESSAGE"), 200)
        assert alice.final().status == 200
        bob.close()
        wait_for(lambda: not any(row["source"].endswith(f":{bob.port}") for row in server.json("rpc", "core.tcp_list")))
        alice.send(alice.request("MESSAGE", bob.aor, from_="sip:carol@foreign.example"))
        connection, _ = waiting.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            assert connection.recv(65536).startswith(b"MESSAGE sip:bob@127.0.0.1")
    phones("bob", "udp").register(expires=0, contact="*")


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"", id="tls-hello"),
        pytest.param(b"hello server\r\n", b"SIP/2.0 400 ", id="no-sip"),
        pytest.param(b"EHLO me\r\nMAIL FROM:<a@b>\r\n", b"SIP/2.0 400 ", id="mail"),
        pytest.param(os.urandom(20000), b"", id="noise"),
        pytest.param(
            b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nCSeq: 1 OPTIONS\r\n\r\n", b"SIP/2.0 400 Missing",
            id="no-content-length",
        ),
        pytest.param(
            b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nCSeq: 1 OPTIONS\r\n" + b"X: y\r\n" * 9000,
            b"SIP/2.0 513 ", id="head-without-end",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 404 ", id="http-without-the-module"),
    ],
)  # fmt: skip
def test_what_is_no_sip_closes_its_own_connection_only(phones, stream, answer):
    other, bad = phones("alice", "tcp"), phones("bob", "tcp")
    with contextlib.suppress(ConnectionError):
        bad.socket.sendall(stream)
    assert bad.is_closed()
    assert bad.data.startswith(answer)
    assert bool(bad.data) == bool(answer)
    assert is_served(other)


def options(server, call_id):
    """An OPTIONS to the server itself."""
    return (
        f"OPTIONS sip:127.0.0.1:{server.port} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK{call_id}\r\n"
        f"From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )


def answers_until_the_end(phone):
    """(status, Call-ID) of everything that comes before the connection ends."""
    assert phone.is_closed()
    found = []
    while phone.data:
        message = phone._take()
        assert message is not None, phone.data
        found.append((message.status, message.get("Call-ID")))
    return found


def test_good_requests_before_garbage_are_answered_and_then_the_garbage_is_refused(server, phones):
    phone = phones("alice", "tcp")
    bad = options(server, "bad").replace("Content-Length: 0", "Content-Length: x")
    phone.send(options(server, "one") + options(server, "two") + bad + options(server, "never"))
    found = answers_until_the_end(phone)
    assert sorted(found[:2]) == [(200, "one"), (200, "two")]
    assert found[2:] == [(400, "bad")]


@pytest.mark.parametrize("garbage", ["hello\r\n", "hello server\r\n\r\n", "a b c\nX: y\r\n", "PRI * HTTP/2.0\r\n\r\n"])
def test_a_request_behind_garbage_is_told_that_it_was_not_understood(server, phones, garbage):
    phone = phones("alice", "tcp")
    phone.send(garbage + options(server, "one") + options(server, "never"))
    assert answers_until_the_end(phone) == [(400, "one")]


def test_an_ack_or_an_answer_behind_garbage_is_not_answered(server, phones):
    for text in (
        options(server, "one").replace("OPTIONS", "ACK"),
        options(server, "one").replace("OPTIONS sip:", "SIP/2.0 200 "),
    ):
        phone = phones("alice", "tcp")
        phone.send(f"hello\r\n{text}")
        assert [call_id for _, call_id in answers_until_the_end(phone)] == [""]


@pytest.mark.parametrize(
    "lengths",
    ["l: %d\r\nContent-Length: 0", "Content-Length: 0\r\nContent-Length: %d", "Content-Length:\r\n %d\r\nL: 0"],
)
def test_a_request_in_a_body_whose_length_is_disputed_is_not_served(server, phones, lengths):
    phone = phones("alice", "tcp")
    hidden = options(server, "hidden")
    phone.send(options(server, "outer").replace("Content-Length: 0", lengths % len(hidden)) + hidden)
    assert answers_until_the_end(phone) == [(400, "outer")]


def test_a_client_that_closes_its_side_gets_its_answers(server, phones):
    phone = phones("alice", "tcp")
    phone.send("".join(options(server, f"half-{number}") for number in range(20)))
    phone.socket.shutdown(socket.SHUT_WR)
    assert len(answers_until_the_end(phone)) == 20


def test_all_registrations_of_a_gateway_in_one_write_are_answered(server, phones):
    phone = phones("alice", "tcp")
    texts = [
        phone.request("REGISTER", f"sip:{DOMAIN}", call_id="gateway", cseq=number, to=f"sip:alice@{DOMAIN}")
        for number in range(1, 151)
    ]
    phone.send("".join(texts))
    assert [phone.expect(401).get("CSeq") for _ in texts] == [f"{number} REGISTER" for number in range(1, 151)]


def test_who_holds_all_connections_makes_room_for_others(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    honest = server.tcp_phone("alice", "127.0.2.1")
    assert honest.register().status == 200
    before = server.tcp_info()["crowded"]
    greedy = [server.tcp_phone("bob", "127.0.2.1") for _ in range(300)]
    try:
        wait_for(lambda: server.tcp_info()["crowded"] >= before + 150)
        assert is_served(honest)
        assert is_served(server.tcp_phone("alice", "127.0.2.2"))
        assert not honest.is_closed(0.25)
    finally:
        for phone in [*greedy, honest]:
            phone.close()


def test_a_client_that_does_not_read_disturbs_nobody(server, phones):
    deaf = server.tcp_phone("alice")
    deaf.socket.setblocking(False)
    text = deaf.request("OPTIONS", f"sip:{server.address[0]}:{server.port}").encode() * 50
    for _ in range(200):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            deaf.socket.send(text)
    assert is_served(phones("bob", "tcp"))
    assert is_served(phones("bob", "udp"))
    deaf.close()


def test_while_the_receivers_stand_still_connections_wait_and_lose_nothing(server, phones):
    phone = phones("alice", "tcp")
    receivers = [pid for title, pid in server.children().items() if "udp receiver" in title]
    paused = server.tcp_info()["paused"]
    count = 0
    for pid in receivers:
        os.kill(pid, signal.SIGSTOP)
    try:
        phone.socket.setblocking(False)
        until = time.monotonic() + 5.0
        rest = b""
        pad = ("X-Pad: " + "x" * 8000,)
        while time.monotonic() < until:
            if not rest:
                text = phone.request("OPTIONS", f"sip:127.0.0.1:{server.port}", call_id=f"{count}@wait", headers=pad)
                rest = text.encode()
                count += 1
            try:
                rest = rest[phone.socket.send(rest) :]
            except BlockingIOError:  # the server does not read
                if server.tcp_info()["paused"] > paused:
                    break
        assert server.tcp_info()["paused"] > paused
    finally:
        for pid in receivers:
            os.kill(pid, signal.SIGCONT)
    phone.socket.settimeout(15.0)
    phone.socket.sendall(rest)
    assert sum(phone.final().status == 200 for _ in range(count)) == count > 200


def test_a_thousand_connections_are_all_served(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    before = server.tcp_info()["opened_connections"]
    phones = [server.tcp_phone("alice", f"127.0.1.{1 + number % 50}") for number in range(1000)]
    try:
        wait_for(lambda: server.tcp_info()["opened_connections"] >= before + 1000)
        for phone in phones:
            phone.send(phone.request("OPTIONS", f"sip:{server.address[0]}:{server.port}"))
        assert sum(phone.final().status == 200 for phone in phones) == 1000
    finally:
        for phone in phones:
            phone.close()
    wait_for(lambda: server.tcp_info()["opened_connections"] <= before)


def test_a_killed_tcp_receiver_comes_back_and_udp_does_not_notice(server, phones):
    udp = phones("alice", "udp")
    tcp = [server.tcp_phone("bob") for _ in range(8)]
    old = server.tcp_children()
    os.kill(old[0], signal.SIGKILL)
    assert is_served(udp)
    lost = [phone for phone in tcp if phone.is_closed(0.25)]
    wait_for(lambda: len(server.tcp_children()) == len(old) and old[0] not in server.tcp_children())
    assert len(lost) < len(tcp)
    for phone in tcp:
        if phone in lost:
            phone.close()
            phone.connect()
        assert is_served(phone)
    assert tcp[0].register().status == 200
    invite, _ = call(_registered(udp), tcp[0])
    assert invite.all("Via")[0].startswith("SIP/2.0/TCP")
    for phone in tcp:
        phone.close()


def _registered(phone: Phone) -> Phone:
    assert phone.register().status == 200
    return phone


def test_clients_that_never_finish_a_message_are_closed(server, phones):
    for phone in server.slow:
        assert phone.is_closed(15.0)
        phone.close()
    assert is_served(phones("alice", "tcp"))


@pytest.mark.parametrize(
    "mode",
    [pytest.param("t1", id="one-connection"), pytest.param("tn", id="a-connection-per-call")],
)
@pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp is not installed")
def test_sipp_calls_over_tcp(server, phones, tmp_path, mode):
    uas = _free_tcp_port()
    phones("bob", "udp").register(contact=f"<sip:bob@127.0.0.1:{uas};transport=tcp>")
    scenario = tmp_path / "uac.xml"
    scenario.write_text(UAC)
    callee = subprocess.Popen(
        ["sipp", "-sf", str(TOP / "bench/sipp/call_uas.xml"), "-i", "127.0.0.1", "-p", str(uas), "-t", "t1", "-nostdin", "-timeout", "30"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: _accepts(uas))
        done = subprocess.run(
            ["sipp", f"127.0.0.1:{server.port}", "-sf", str(scenario), "-s", "bob", "-i", "127.0.0.1", "-t", mode,
             "-m", "50", "-r", "50", "-nostdin", "-timeout", "30", "-max_socket", "500", "-trace_err"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    finally:
        callee.terminate()
        callee.wait(10)
    assert done.returncode == 0, done.stdout[-2000:] + "".join(
        path.read_text()[-2000:] for path in tmp_path.glob("*err*")
    )


@pytest.mark.skipif(shutil.which("sipsak") is None, reason="sipsak is not installed")
def test_sipsak_is_answered_over_tcp(server):
    done = subprocess.run(
        ["sipsak", "-vv", "-E", "tcp", "-s", f"sip:127.0.0.1:{server.port}"],
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert b"final received" in done.stdout  # it cuts a digit off the port in its Request-URI, so not always 200


def _free_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


UAC = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="call over TCP">
  <send><![CDATA[
INVITE sip:[service]@example.com SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:sipp@foreign.example>;tag=[call_number]
To: <sip:[service]@example.com>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="200" rrs="true"/>
  <send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
[routes]
From: <sip:sipp@foreign.example>;tag=[call_number]
To: <sip:[service]@example.com>[peer_tag_param]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
  <send><![CDATA[
BYE [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
[routes]
From: <sip:sipp@foreign.example>;tag=[call_number]
To: <sip:[service]@example.com>[peer_tag_param]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="200"/>
</scenario>
"""
