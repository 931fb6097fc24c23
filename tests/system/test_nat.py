"""NAT: phones in two private networks with equal addresses, behind two NATs, call each other (RFC 3581, 5626, 6314).

The NATs forget a mapping after a few seconds of silence, so the keep-alives are proven in a short time.
``NAT_SILENCE_S=60`` waits a minute, with the timeout and the interval scaled alike.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shutil
import socket
import time
from pathlib import Path

import pytest
from support.netns import Lab, needs_namespaces
from support.patience import PATIENCE_S
from support.running import CONFIG, wait_for
from support.town import ROUTERS, SERVER, Probe, Town, TownServer

pytestmark = [pytest.mark.system, needs_namespaces]

SILENCE_S = float(os.environ.get("NAT_SILENCE_S", "4"))
FORGET_S = max(2, int(SILENCE_S / 2))  # of silence, then the NAT has forgotten the phone
PING_S = max(1, int(SILENCE_S / 4))

HAS_RTPENGINE = shutil.which("rtpengine") is not None
NG_PORT = 22223
RTP_PORT = 4000  # of both phones
PACKETS = 50


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """The network with a running server that keeps the mappings alive by OPTIONS."""
    yield from build_town(tmp_path_factory, "OPTIONS")


@pytest.fixture(scope="module")
def plain_town(tmp_path_factory):
    """The same with pings of four bytes."""
    yield from build_town(tmp_path_factory, "")


def build_town(tmp_path_factory, method):
    folder = tmp_path_factory.mktemp("town")
    config = folder / "nat.conf"
    config.write_text(f'include_file "{CONFIG}"\nmodparam("nathelper", "natping_method", "{method}")\n')
    defines = {"KEEPALIVE": str(PING_S)}
    if HAS_RTPENGINE:
        defines["RTP_PROXY"] = f"ng:127.0.0.1:{NG_PORT}"
    with Lab("a") as lab:
        made = Town(lab, udp_timeout=FORGET_S)
        if HAS_RTPENGINE:
            start_rtpengine(made, folder)
        running = TownServer(folder, made.server, config=config, defines=defines).prepare("alice", "bob").start()
        made.running = running
        with contextlib.closing(made):
            yield made
            assert running.stop() == 0, running.log.read_text()[-3000:]
        assert "Traceback" not in running.log.read_text()


def start_rtpengine(town, folder):
    """rtpengine in the server's namespace, without its kernel part."""
    with (folder / "rtpengine.log").open("wb") as log:
        town.server.popen(
            "rtpengine", "--config-file=none", "--foreground", "--table=-1", "--num-threads=1", "--log-stderr",
            "--delete-delay=0", f"--interface={SERVER}", f"--listen-ng=127.0.0.1:{NG_PORT}", "--port-min=30000", "--port-max=30099",
            stdout=log, stderr=log,
        )  # fmt: skip


@pytest.fixture
def phones(town):
    """alice in the first house, bob in the second, at the same private address and port; both registered."""
    yield from registered(town)


@pytest.fixture
def plain_phones(plain_town):
    """The same in the other town."""
    yield from registered(plain_town)


def registered(town):
    alice, bob = town.phone(0, "alice"), town.phone(1, "bob")
    assert alice.contact.replace("alice", "bob") == bob.contact
    for phone in (alice, bob):
        assert phone.register().status == 200
    yield alice, bob
    for phone in (alice, bob):
        phone.pending.clear()
        assert phone.register(0, contact="*").status == 200
    town.close()


def call(caller, callee, *, media=False):
    """Set up a call, with *media* between two sessions; returns the INVITE as sent, as received, the 200 as received."""
    more = {"body": sdp(caller), "headers": ("Content-Type: application/sdp",)} if media else {"headers": ()}
    text = caller.request("INVITE", callee.aor, **more)
    caller.send(text)
    challenge = caller.expect(407)
    caller.send(caller.ack(text, challenge))
    more["headers"] += (caller.authorization(challenge, "INVITE", callee.aor),)
    text = caller.request("INVITE", callee.aor, **more)
    caller.send(text)
    invite = callee.expect("INVITE")
    callee.reply(invite, 180, "Ringing")
    assert caller.expect(180).get("CSeq") == invite.get("CSeq")
    callee.reply(
        invite, 200, body=sdp(callee) if media else "", headers=("Content-Type: application/sdp",) if media else ()
    )
    answer = caller.expect(200)
    caller.send(caller.in_dialog("ACK", text, answer, cseq=caller.cseq))
    callee.expect("ACK")
    return text, invite, answer


def sdp(phone):
    """What a phone that knows only its own address says."""
    lines = [
        "v=0", f"o={phone.user} 1 1 IN IP4 {phone.host}", "s=-", f"c=IN IP4 {phone.host}", "t=0 0",
        f"m=audio {RTP_PORT} RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=sendrecv", "",
    ]  # fmt: skip
    return "\r\n".join(lines)


def media_address(message):
    """(host, port) of the first stream in the SDP of *message*."""
    body = message.split("\r\n\r\n", 1)[1]
    host = re.search(r"^c=IN IP4 (\S+)", body, re.MULTILINE)[1]
    return host.strip(), int(re.search(r"^m=audio (\d+)", body, re.MULTILINE)[1])


def dialog_of_caller(phone, text, answer):
    return lambda method, **options: phone.in_dialog(method, text, answer, **options)


def dialog_of_callee(phone, invite):
    return lambda method, **options: phone.in_dialog_as_callee(method, invite, **options)


def again(asking, answering, build):
    """A re-INVITE inside the dialog whose requests *build* makes: request, 200, ACK along the same way."""
    asking.send(build("INVITE"))
    answering.reply(answering.expect("INVITE"), 200)
    asking.expect(200)
    asking.send(build("ACK", cseq=asking.cseq))
    answering.expect("ACK")


def hang_up(asking, answering, build):
    asking.send(build("BYE"))
    bye = answering.expect("BYE")
    answering.reply(bye, 200)
    assert "BYE" in asking.expect(200).get("CSeq")


def test_a_phone_behind_a_nat_is_recognised_and_kept_with_its_outer_address(phones, town):
    for phone, router in zip(phones, ROUTERS, strict=True):
        [contact] = contacts(town, phone)
        assert contact["contact"] == phone.contact
        received = contact["recv"]
        assert received.startswith(f"sip:{router}:")
        assert received.endswith(f";dstip={SERVER};dstport=5060")
        assert f"{router}:5060" not in received  # the NAT has chosen another port


def test_after_a_silence_the_call_still_arrives_and_both_ends_can_change_and_end_it(phones, town):
    silence(phones, town)
    alice, bob = phones
    text, invite, answer = call(alice, bob)
    assert f"@{ROUTERS[0]}:" in invite.get("Contact")  # bob can write to alice
    assert f"@{ROUTERS[1]}:" in answer.get("Contact")  # alice can write to bob
    from_caller = dialog_of_caller(alice, text, answer)
    from_callee = dialog_of_callee(bob, invite)
    again(alice, bob, from_caller)
    again(bob, alice, from_callee)
    hang_up(bob, alice, from_callee)

    text, _, answer = call(bob, alice)
    hang_up(bob, alice, dialog_of_caller(bob, text, answer))


def test_four_bytes_are_enough_to_keep_a_phone_reachable(plain_phones, plain_town):
    silence(plain_phones, plain_town)
    alice, bob = plain_phones
    text, _, answer = call(alice, bob)
    hang_up(alice, bob, dialog_of_caller(alice, text, answer))
    counters = plain_town.running.json("stats")
    assert counters["nathelper.pings"] >= alice.pings + bob.pings > 0
    assert counters["nathelper.ping_replies"] == 0


def silence(phones, town):
    """Neither phone sends anything for a while but answers to keep-alives."""
    alice, bob = phones
    forgotten = [Probe(town.server, house) for house in town.houses]
    for phone in phones:  # one after the other: what comes meanwhile waits in the socket of the other
        phone.listen_for(SILENCE_S / 2)
    for probe in forgotten:  # the same NATs, without keep-alives: nothing gets in any more
        assert not probe.is_open()
        probe.close()
    assert alice.pings >= SILENCE_S / 2 / PING_S - 1
    assert bob.pings >= SILENCE_S / PING_S - 1


def test_answers_to_pings_end_in_the_receivers(phones, town):
    alice, _ = phones
    alice.listen_for(2.5 * PING_S)
    counters = town.running.json("stats")
    assert counters["nathelper.pings"] >= alice.pings > 0
    assert counters["nathelper.ping_replies"] > 0
    assert counters["nathelper.pings_failed"] == 0


def test_the_nat_flag_and_the_outer_address_survive_a_restart(phones, town):
    _, bob = phones
    before = contacts(town, bob)
    assert town.running.stop() == 0
    town.running.start()
    assert [contact["recv"] for contact in contacts(town, bob)] == [contact["recv"] for contact in before]
    # Only contacts with the flag are pinged. Whether the ping gets in depends on how long the restart took.
    wait_for(lambda: town.running.json("stats")["nathelper.pings"] > 0)


@pytest.mark.skipif(not HAS_RTPENGINE, reason="rtpengine is not installed (apt-get install rtpengine-daemon)")
def test_media_flow_both_ways_through_rtpengine_until_the_call_ends(phones, town):
    alice, bob = phones
    text, invite, answer = call(alice, bob, media=True)
    streams = []
    for house, peer in ((0, media_address(answer)), (1, media_address(invite))):
        assert peer[0] == SERVER
        assert 30000 <= peer[1] < 30100
        with town.houses[house].inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((town.houses[house].address, RTP_PORT))
        sock.connect(peer)
        streams.append(sock)
    with contextlib.closing(streams[0]), contextlib.closing(streams[1]):
        assert talk(streams) == [PACKETS, PACKETS]
        again(bob, alice, dialog_of_callee(bob, invite))
        hang_up(alice, bob, dialog_of_caller(alice, text, answer))
        assert talk(streams, at_most_s=0.5) == [0, 0]


def talk(streams, *, at_most_s=PATIENCE_S):
    """Each of two sockets sends RTP to its peer; how many of PACKETS of the other's packets each gets."""
    got = [set(), set()]
    number = 0
    mark = bytes([secrets.randbelow(256)])  # packets of an earlier talk may still wait in the sockets
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline and min(map(len, got)) < PACKETS:
        for ssrc, sock in enumerate(streams):
            with contextlib.suppress(ConnectionRefusedError):  # the port at rtpengine is closed
                sock.send(rtp(number, ssrc, mark))
        number += 1
        ready, _, _ = select.select(streams, [], [], 0.01)
        for sock in ready:
            with contextlib.suppress(ConnectionRefusedError):
                data = sock.recv(2000)
                me = streams.index(sock)
                # the first packets tell rtpengine where the phone is; what is counted is ours and the other phone's
                if data[11:] == bytes([1 - me]) + mark * 160 and len(got[me]) < PACKETS:
                    got[me].add(data[2:4])
    return [len(numbers) for numbers in got]


def rtp(number, ssrc, mark):
    """20 ms of PCMU, filled with *mark*."""
    head = bytes([0x80, 0]) + number.to_bytes(2, "big") + (number * 160).to_bytes(4, "big") + bytes([9, 9, 9, ssrc])
    return head + mark * 160


@pytest.mark.skipif(not HAS_RTPENGINE, reason="rtpengine is not installed (apt-get install rtpengine-daemon)")
@pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is not installed (apt-get install sip-tester)")
def test_sipp_ends_behind_both_nats_hear_each_other(town, tmp_path):
    bob = town.phone(1, "bob")  # registers for the callee, which then uses its address
    assert bob.register().status == 200
    town.close()
    sound = tmp_path / "sound"
    sound.write_bytes(bytes(range(256)) * 400)  # some 13 seconds
    for house in town.houses:
        house.nft(
            "table ip media {\n chain input {\n  type filter hook input priority 0;\n"
            f"  ip saddr {SERVER} udp sport 30000-30099 counter\n }}\n}}\n"
        )
    # -aa answers keep-alives; each counts as a call, so the callee does not end by itself
    callee = sipp(town.houses[1], "media_uas.xml", sound, "-p", "5060", "-aa")
    caller = sipp(
        town.houses[0], "media_uac.xml", sound, "-p", "5061", "-m", "1", "-key", "callee", bob.aor, f"{SERVER}:5060"
    )
    assert caller.wait(30) == 0, (tmp_path / "media_uac.xml.log").read_text()[-3000:]
    callee.kill()
    assert callee.wait(5) != 0
    bob = town.phone(1, "bob")
    assert bob.register(0, contact="*").status == 200
    town.close()
    heard = [int(re.search(r"packets (\d+)", house.run("nft", "list", "ruleset").stdout)[1]) for house in town.houses]
    for house in town.houses:
        house.nft("delete table ip media\n")
    # three seconds are 150 packets of 20 ms; the first ones of each end find no way yet
    assert min(heard) >= 100, heard


def sipp(host, scenario, sound, *words):
    """One call of SIPp at *host*, with its output in the folder of *sound*."""
    with (sound.parent / f"{scenario}.log").open("wb") as log:
        return host.popen(
            "sipp", "-sf", str(Path(__file__).parent / "sipp" / scenario), "-i", host.address, "-nostdin",
            "-timeout", "20", *words, stdout=log, stderr=log,
            cwd=sound.parent,
        )  # fmt: skip


def contacts(town, phone):
    return town.running.json("usrloc", "show", f"{phone.user}@example.com")


def test_the_network_of_a_failed_test_is_removed_with_its_processes():
    made = []

    def fail():
        with Lab("a") as lab:
            host = lab.host("lonely", lab.switch("street"), "198.51.100.7/24")
            made.extend([Path("/run/netns", host.namespace), host.popen("sleep", "60")])
            assert made[0].exists()
            raise RuntimeError("the test failed")

    with pytest.raises(RuntimeError, match="the test failed"):
        fail()
    namespace, process = made
    assert process.poll() is not None
    assert not namespace.exists()
