"""Only what another server of the farm signed, lately and once, is believed."""

import pytest

from serpy.replication.envelope import STREAM_FRAME, STREAM_REGISTER, DroppedError, Sealer, Stamp, register_time
from serpy.replication.window import WIDTH, Senders, Window
from serpy.sip.parser import parse_message

NOW_MS = 1_700_000_000_123
REGISTER = (
    b"REGISTER sip:alice%40example.com@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
    b"From: <sip:a@h>;tag=1\r\nTo: <sip:a@h>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"
)


def sealer(server_id=1, key=b"secret", group="224.0.1.75:5060"):
    return Sealer(key, group, server_id, 0xABC)


def reason(call, *arguments):
    with pytest.raises(DroppedError) as caught:
        call(*arguments)
    return caught.value.reason


def test_a_sealed_register_is_a_sip_message_and_opens():
    data = sealer().seal_register(REGISTER, NOW_MS)
    request = parse_message(data)
    request.check_mandatory()
    assert register_time(request.get("serpy-replica")) == NOW_MS / 1000
    stamp = sealer(2).open_register(data)
    assert (stamp.server_id, stamp.boot, stamp.sequence, stamp.sent_ms) == (1, 0xABC, 1, NOW_MS)


def test_numbers_of_the_two_streams_grow_separately():
    one = sealer()
    one.seal_register(REGISTER, NOW_MS)
    assert sealer(2).open_register(one.seal_register(REGISTER, NOW_MS)).sequence == 2
    assert sealer(2).open_frame(one.seal_frame(1, b"", NOW_MS)).stamp.sequence == 1


def test_every_changed_byte_of_a_register_is_noticed():
    data = sealer().seal_register(REGISTER, NOW_MS)
    receiver = sealer(2)
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(DroppedError):
            receiver.open_register(changed)


def test_every_changed_byte_of_a_frame_is_noticed():
    data = sealer().seal_frame(3, b"payload", NOW_MS)
    receiver = sealer(2)
    assert receiver.open_frame(data).payload == b"payload"
    for at in range(len(data)):
        with pytest.raises(DroppedError):
            receiver.open_frame(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(REGISTER, "unsigned", id="bare"),
        pytest.param(sealer(key=b"other").seal_register(REGISTER, NOW_MS), "foreign", id="other-key"),
        pytest.param(sealer(group="224.0.1.76:5060").seal_register(REGISTER, NOW_MS), "foreign", id="other-group"),
        pytest.param(sealer().seal_register(REGISTER, NOW_MS) + b"x", "forged", id="longer"),
        pytest.param(sealer().seal_register(REGISTER, NOW_MS).replace(b"id=1", b"id=3"), "forged", id="other-server"),
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(b"REGISTER sip:h SIP/2.0\r\nSerpy-Replica: x\r\n\r\n", "malformed", id="no-fields"),
        pytest.param(b"REGISTER sip:h SIP/2.0\r\nSerpy-Replica: grp=1", "malformed", id="cut"),
        pytest.param(sealer().seal_register(REGISTER, NOW_MS).replace(b"seq=1", b"seq=+1"), "malformed", id="sign"),
        pytest.param(sealer().seal_register(REGISTER, NOW_MS).replace(b"seq=1", b"seq="), "malformed", id="no-number"),
        pytest.param(
            sealer().seal_register(REGISTER, NOW_MS).replace(b"seq=1", b"seq=" + b"1" * 30), "malformed", id="huge"
        ),
    ],
)
def test_what_is_wrong_with_a_register_is_said(data, expected):
    assert reason(sealer(2).open_register, data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"\0SR1", "malformed", id="short"),
        pytest.param(b"\0SR2" + bytes(80), "malformed", id="other-version"),
        pytest.param(sealer(key=b"other").seal_frame(1, b"", NOW_MS), "foreign", id="other-key"),
        pytest.param(sealer().seal_frame(1, b"x", NOW_MS)[:-1] + b"?", "forged", id="signature"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(data, expected):
    assert reason(sealer(2).open_frame, data) == expected


@pytest.mark.parametrize("value", [None, "", "ts=", "ts=-1", "ts=" + "9" * 30, "x=1", "ts=\uff11"])
def test_a_header_without_a_time_has_none(value):
    assert register_time(value) == 0.0


def test_each_number_is_taken_once_and_late_ones_too():
    window = Window(10)
    assert [window.take(number) for number in (10, 12, 11, 11, 12, 13)] == [False, True, True, False, False, True]
    assert window.missing == 0
    assert window.take(20)
    assert window.missing == 6


def test_a_number_older_than_the_window_is_not_taken():
    window = Window(1)
    assert window.take(WIDTH + 1)
    assert not window.take(1)
    assert window.take(2)
    assert window.take(10 * WIDTH)
    assert not window.take(2 * WIDTH)


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        pytest.param(Stamp(1, 5, 1, NOW_MS), "own", id="own-id"),
        pytest.param(Stamp(2, 5, 1, NOW_MS - 31_000), "stale", id="old"),
        pytest.param(Stamp(2, 5, 1, NOW_MS + 31_000), "stale", id="from-the-future"),
        pytest.param(Stamp(2, 5, 7, NOW_MS), "replayed", id="again"),
    ],
)
def test_who_is_not_admitted(stamp, expected):
    senders = Senders(1, 30.0)
    senders.admit(Stamp(2, 5, 7, NOW_MS), STREAM_REGISTER, NOW_MS / 1000)
    assert reason(senders.admit, stamp, STREAM_REGISTER, NOW_MS / 1000) == expected


def test_clocks_that_differ_by_seconds_do_no_harm():
    senders = Senders(1, 30.0)
    life = senders.admit(Stamp(2, 5, 1, NOW_MS + 9_000), STREAM_REGISTER, NOW_MS / 1000)
    assert life.lag == pytest.approx(-9.0)


def test_a_restarted_server_counts_from_one_again():
    senders = Senders(1, 30.0)
    for boot in (5, 6):
        for number in (1, 2):
            senders.admit(Stamp(2, boot, number, NOW_MS), STREAM_FRAME, NOW_MS / 1000)
    assert reason(senders.admit, Stamp(2, 5, 2, NOW_MS), STREAM_FRAME, NOW_MS / 1000) == "replayed"


def test_a_server_is_forgotten_only_when_all_it_sent_is_stale():
    senders = Senders(1, 30.0)
    now = NOW_MS / 1000
    senders.admit(Stamp(2, 5, 1, NOW_MS + 29_000), STREAM_REGISTER, now)
    senders.forget(now + 59)
    assert reason(senders.admit, Stamp(2, 5, 1, NOW_MS + 29_000), STREAM_REGISTER, now + 58) == "replayed"
    senders.forget(now + 61)
    assert senders.lives == {}
    assert reason(senders.admit, Stamp(2, 5, 1, NOW_MS + 29_000), STREAM_REGISTER, now + 61) == "stale"
