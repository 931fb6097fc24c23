"""Odd but honest phones, and callers who try to be taken for somebody, at the shipped configuration."""

from __future__ import annotations

import secrets
import shutil
import subprocess

import pytest
from support.patience import PATIENCE_S, free_port
from support.running import TOP, Running
from support.steps import invite, refused

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that gives this machine, from which all sorts of callers call here, no budget."""
    running = Running(tmp_path_factory.mktemp("serpy"), defines={"TRUSTED": "127.0.0.0/8"})
    running.prepare("alice", "bob", "carol").start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


def asked(phone, method, uri, **options):
    """The final answer to a request with credentials."""
    phone.call_id = f"{secrets.token_hex(8)}@test"
    headers = options.pop("headers", ())
    answer = phone.ask(phone.request(method, uri, headers=headers, **options))
    if answer.status == 407:
        headers = (*headers, phone.authorization(answer, method, uri))
        answer = phone.ask(phone.request(method, uri, headers=headers, **options))
    return answer


def message(phone, uri, *, headers=(), **options):
    """Send a MESSAGE with credentials and leave its answer for later."""
    phone.call_id = f"{secrets.token_hex(8)}@test"
    answer = phone.ask(phone.request("MESSAGE", uri, headers=headers, **options))
    assert answer.status == 407
    phone.send(
        phone.request("MESSAGE", uri, headers=(*headers, phone.authorization(answer, "MESSAGE", uri)), **options)
    )


@pytest.fixture(scope="module")
def numbers(server):
    """Telephone numbers of alice and bob."""
    server.ctl("alias", "add", "bob@example.com", "5510@example.com")
    server.ctl("alias", "add", "alice@example.com", "5520@example.com")


# ---- telephone numbers


@pytest.mark.parametrize(
    "uri", ["tel:+15551234", "tel:5551234;phone-context=example.com", "tel:5551234;phone-context=+1"]
)
def test_a_number_that_nobody_has_is_not_found(phones, uri):
    alice = phones("alice")
    refused(alice, invite(alice, uri, to=f"<{uri}>"), 404)


@pytest.mark.parametrize(
    "uri",
    ["tel:55-10", "tel:5510;phone-context=Example.COM.", "sip:55-10@example.com;user=phone", "sip:5510@EXAMPLE.com."],
)
@pytest.mark.usefixtures("numbers")
def test_a_number_of_a_user_is_called_however_it_is_written(phones, uri):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    message(alice, uri, to=f"<{uri}>")
    bob.reply(bob.expect("MESSAGE"), 200)
    alice.expect(200)


@pytest.mark.usefixtures("numbers")
def test_a_user_may_call_as_a_number_of_theirs_and_has_to_prove_it(phones):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    message(alice, bob.aor, from_="tel:55-20;phone-context=example.com")
    bob.reply(bob.expect("MESSAGE"), 200)
    alice.expect(200)
    assert asked(phones("carol"), "MESSAGE", bob.aor, from_="tel:5520;phone-context=example.com").status == 403


@pytest.mark.usefixtures("numbers")
def test_a_phone_may_register_as_a_number_of_its_user(phones):
    bob = phones("bob")
    assert bob.register(to="<tel:55-10>").status == 200
    assert bob.register(to="<tel:55-20>").status == 403
    assert bob.register(to="<tel:55-30>").status == 404


def test_a_number_without_a_domain_is_foreign(phones):
    stranger, bob = phones("stranger"), phones("bob")
    bob.register()
    stranger.send(stranger.request("MESSAGE", bob.aor, from_="tel:+4312"))
    bob.reply(bob.expect("MESSAGE"), 200)
    assert stranger.final().status == 200
    assert stranger.ask(stranger.request("MESSAGE", "sip:x@other.invalid", from_="tel:+4312")).status == 403
    assert stranger.ask(stranger.request("MESSAGE", "tel:+4313", from_="tel:+4312")).status == 403


# ---- who is foreign


@pytest.mark.parametrize("host", ["example.com.", "EXAMPLE.COM", "example.com:5060", "Example.com.:7"])
def test_no_spelling_of_a_domain_of_ours_is_foreign(phones, host):
    stranger, bob = phones("stranger"), phones("bob")
    assert stranger.ask(stranger.request("MESSAGE", bob.aor, from_=f"sip:alice@{host}")).status == 407


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:5", "[::ffff:127.0.0.1]", "127.0.0.1.", "[::1]", "localhost"])
def test_nobody_is_at_an_address_of_ours_that_is_no_domain(phones, host):
    stranger, bob = phones("stranger"), phones("bob")
    assert stranger.ask(stranger.request("MESSAGE", bob.aor, from_=f"sip:alice@{host}")).status in (400, 403)


@pytest.mark.parametrize(
    "uri", ["im:alice@example.com", "pres:alice@example.com", "http://example.com/", "urn:service:sos"]
)
def test_nobody_calls_with_a_from_that_has_no_domain_to_be_asked_for(phones, uri):
    stranger, bob = phones("stranger"), phones("bob")
    assert stranger.ask(stranger.request("MESSAGE", bob.aor, from_=uri)).status in (400, 403)


def test_a_user_cannot_call_an_address_of_the_server_that_is_no_domain(phones, server):
    assert asked(phones("alice"), "MESSAGE", f"sip:x@127.0.0.1:{server.port}").status == 404


# ---- Route


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_phone_may_name_the_server_as_its_outbound_proxy_more_than_once(phones, server, times):
    alice, bob, there = phones("alice"), phones("bob"), phones("there")
    bob.register()
    own = "Route: " + ", ".join([f"<sip:127.0.0.1:{server.port};lr>"] * times)
    for called, uri in ((there, f"sip:there@127.0.0.1:{there.port}"), (bob, bob.aor)):
        message(alice, uri, headers=(own,))
        came = called.expect("MESSAGE")
        assert not came.get("Route")
        called.reply(came, 200)
        alice.expect(200)


@pytest.mark.parametrize(
    "route", ["<sip:127.0.0.1:{port};lr>, <sip:127.0.0.1:{there};lr>", "<sip:127.0.0.1:{port};lr>, <sip:x.invalid>",
    "<sip:127.0.0.1:{port};lr>, <sip:127.0.0.1:{port};lr>, <sip:127.0.0.1:{there};lr>"],
)  # fmt: skip
def test_a_route_that_names_somebody_else_is_refused(phones, server, route):
    stranger, there = phones("stranger"), phones("there")
    headers = (f"Route: {route.format(port=server.port, there=there.port)}",)
    assert stranger.ask(stranger.request("MESSAGE", f"sip:x@127.0.0.1:{there.port}", headers=headers)).status == 403


@pytest.mark.parametrize("times", [1, 2])
def test_who_is_nobody_here_gains_nothing_by_routes_that_name_the_server(phones, server, times):
    stranger, there = phones("stranger"), phones("there")
    own = "Route: " + ", ".join([f"<sip:127.0.0.1:{server.port};lr>"] * times)
    uri = f"sip:x@127.0.0.1:{there.port}"
    assert stranger.ask(stranger.request("MESSAGE", uri, headers=(own,))).status == 407
    assert stranger.ask(stranger.request("MESSAGE", uri, headers=(own,), from_="sip:x@example.org")).status == 403


# ---- what the server does not understand


@pytest.mark.parametrize("uri", ["sips:bob@example.com", "SIPS:bob@example.com", "sips:x@198.51.100.1"])
def test_who_wants_tls_all_the_way_hears_that_there_is_none(phones, uri):
    bob, alice = phones("bob"), phones("alice")
    bob.register()
    assert alice.ask(alice.request("MESSAGE", uri)).status == 416


# ---- what others may say about themselves


@pytest.mark.parametrize("name", ["P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID"])
def test_nobody_shows_another_identity_in_requests_nor_in_answers(phones, name):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    line = f"{name}: <sip:boss@example.com>"
    text = invite(alice, bob.aor, line)
    came = bob.expect("INVITE")
    assert not came.get(name)
    bob.reply(came, 180, "Ringing", headers=(line,))
    assert not alice.expect(180).get(name)
    bob.reply(came, 200, headers=(line,))
    answer = alice.expect(200)
    assert not answer.get(name)
    ack = alice.in_dialog("ACK", text, answer, cseq=alice.cseq)
    alice.send(ack.replace("\r\nMax-Forwards", f"\r\n{line}\r\nMax-Forwards"))
    assert not bob.expect("ACK").get(name)
    bye = alice.in_dialog("BYE", text, answer)
    alice.send(bye.replace("\r\nMax-Forwards", f"\r\n{line}\r\nMax-Forwards"))
    came = bob.expect("BYE")
    assert not came.get(name)
    bob.reply(came, 200, headers=(line,))
    assert not alice.expect(200).get(name)


# ---- what the server answers itself


@pytest.mark.parametrize("event", ["message-summary", "dialog", "presence"])
def test_a_question_about_oneself_does_not_go_to_ones_own_phones(phones, event):
    bob = phones("bob")
    bob.register()
    answer = asked(bob, "SUBSCRIBE", bob.aor, headers=(f"Event: {event}", "Expires: 600"))
    assert (answer.status, bool(answer.get("Allow-Events"))) == (489, True)
    answer = asked(bob, "PUBLISH", bob.aor, headers=(f"Event: {event}", "Expires: 600"))
    assert (answer.status, bool(answer.get("Allow-Events"))) == (489, True)
    assert not [each for each in bob.pending if each.method]


def test_a_question_about_somebody_else_goes_to_their_phones(phones):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    headers = ("Event: dialog", "Expires: 600")
    challenge = alice.ask(alice.request("SUBSCRIBE", bob.aor, headers=headers))
    alice.send(
        alice.request("SUBSCRIBE", bob.aor, headers=(*headers, alice.authorization(challenge, "SUBSCRIBE", bob.aor)))
    )
    bob.reply(bob.expect("SUBSCRIBE"), 200)
    alice.expect(200)


def test_the_answer_to_options_says_what_is_taken(phones, server):
    probe = phones("probe")
    answer = probe.ask(probe.request("OPTIONS", f"sip:127.0.0.1:{server.port}"))
    lines = answer.split("\r\n")
    for name in ("Allow", "Accept", "Accept-Encoding", "Accept-Language", "Supported"):
        assert [line for line in lines if line.startswith(f"{name}:")]


def test_hops_are_counted_from_70(phones):
    stranger, bob = phones("stranger"), phones("bob")
    bob.register()
    stranger.send(stranger.request("MESSAGE", bob.aor, from_="sip:s@elsewhere.invalid", max_forwards=None))
    came = bob.expect("MESSAGE")
    assert came.get("Max-Forwards") == "70"
    bob.reply(came, 200)


# ---- session timers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Session-Expires: x",), 400), (("Session-Expires: -1",), 400), (("Session-Expires: 99999999999999999999",), 400),
        (("Min-SE: many",), 400), (("x: 1.5",), 400), (("Session-Expires: 30", "Supported: timer"), 422),
    ],
)  # fmt: skip
def test_an_interval_that_is_none_is_refused(phones, headers, status):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    answer = refused(alice, invite(alice, bob.aor, *headers), status)
    assert bool(answer.get("Min-SE")) is (status == 422)


@pytest.mark.parametrize(
    ("headers", "interval", "min_se"),
    [
        ((), "1800", ""),
        (("Session-Expires: 4294967295",), "43200", ""),
        (("Session-Expires: 999999;refresher=uac", "Min-SE: 50000"), "50000;refresher=uac", "50000"),
        (("Session-Expires: 600;refresher=uas",), "600;refresher=uas", ""),
        (("Session-Expires: 10",), "90", "90"),
        (("Min-SE: 3000",), "3000", "3000"),
        (("Min-SE: 4000000000",), "", "4000000000"),
    ],
)
def test_the_interval_of_a_call_is_bounded(phones, headers, interval, min_se):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    text = invite(alice, bob.aor, *headers)
    came = bob.expect("INVITE")
    assert came.get("Session-Expires").partition(";")[0] == interval.partition(";")[0]
    assert ("refresher" in came.get("Session-Expires")) is ("refresher" in interval)
    assert came.get("Min-SE") == min_se
    bob.reply(came, 486, "Busy Here")
    refused(alice, text, 486)


# ---- keep-alives


def test_a_phone_may_ask_by_stun_which_address_it_has(phones):
    bob = phones("bob")
    bob.socket.sendto(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"abcdefghijkl", bob.server)
    bob.socket.settimeout(10)
    answer = bob.socket.recv(2000)
    assert answer[:8] == b"\x01\x01\x00\x0c\x21\x12\xa4\x42"
    assert int.from_bytes(answer[26:28], "big") ^ 0x2112 == bob.port


# ---- SIPp


@pytest.mark.skipif(shutil.which("sipp") is None, reason="SIPp is not installed")
def test_sipp_registers_and_calls_with_credentials_that_name_the_server(tmp_path):
    """It writes the address it sends to as the digest uri, whatever the Request-URI; nothing here is trusted."""
    users = [f"u{number}" for number in range(100)]
    running = Running(tmp_path).prepare(*users).start()
    port = free_port()
    listing = tmp_path / "users.csv"
    lines = "".join(f"{user};[authentication username={user} password={user}];{user}\n" for user in users)
    listing.write_text("SEQUENTIAL\n" + lines)

    def sipp(scenario, own):
        words = [
            "sipp", f"127.0.0.1:{running.port}", "-sf", str(TOP / "bench/sipp" / scenario), "-i", "127.0.0.1", "-p", str(own), "-m", "200",
            "-r", "200", "-inf", str(listing), "-key", "domain", "example.com", "-nostdin", "-timeout", "40",
        ]  # fmt: skip
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout[-2500:]

    try:
        sipp("register.xml", port)
        callee = subprocess.Popen(
            ["sipp", "-sf", str(TOP / "bench/sipp/call_uas.xml"), "-i", "127.0.0.1", "-p", str(port), "-nostdin", "-timeout", "60"],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            sipp("oob_call.xml", free_port())
        finally:
            callee.terminate()
            callee.wait(10)
    finally:
        running.stop()
