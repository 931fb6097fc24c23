"""Replication is the same in any order, and no bytes of a stranger end it."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.replicas import TABLE, MemoryFarm

from serpy.replication import messages
from serpy.replication.envelope import DroppedError, Sealer
from serpy.replication.merge import is_newer
from serpy.replication.window import Window
from serpy.shm.record import Binding

NOW = 1_700_000_000.0
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = st.text("abcdefghij@.-", min_size=1, max_size=20)
bindings = st.builds(
    Binding,
    names,
    names,
    st.integers(int(NOW) + 1, int(NOW) + 100_000),
    aor=texts,
    received=texts,
    q=st.integers(-1, 1000),
    call_id=texts,
    cseq=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0, 1, 2, 65]),
    user_agent=texts,
    instance=texts,
    server_id=st.integers(-(2**31), 2**31 - 1),
    modified_at=st.integers(0, 2**40).map(lambda ms: ms / 1000),
)


def values(binding):
    """All of it; a compiled object has no __dict__."""
    names_of = ("uid", "contact", "expires_at", "aor", "received", "q", "call_id", "cseq", "flags", "user_agent", "instance",
                "server_id", "modified_at")  # fmt: skip
    return [getattr(binding, name) for name in names_of]


@given(st.lists(bindings, max_size=20))
def test_bindings_come_out_as_they_went_in(found):
    payloads = messages.batches([messages.build_binding("location", binding, NOW) for binding in found])
    back = [pair for payload in payloads for pair in messages.parse_bindings(payload, NOW)]
    assert [(table, values(binding)) for table, binding in back] == [("location", values(binding)) for binding in found]


@given(st.binary(max_size=300))
def test_no_payload_is_worse_than_a_value_error(data):
    for parse in (messages.parse_ask, messages.parse_tell, messages.parse_removed):
        with pytest.raises(ValueError, match=r".*") if _fails(parse, data) else _nothing():
            parse(data)
    with pytest.raises(ValueError, match=r".*") if _fails(messages.parse_bindings, data, NOW) else _nothing():
        messages.parse_bindings(data, NOW)


class _nothing:  # noqa: N801 - a context manager
    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        return None


def _fails(call, *arguments) -> bool:
    try:
        call(*arguments)
    except ValueError:
        return True
    return False


@given(st.binary(max_size=400))
def test_no_datagram_of_a_stranger_is_believed(data):
    sealer = Sealer(b"key", "group", 1, 1)
    for opened in (sealer.open_register, sealer.open_frame):
        for prefix in (b"", b"\0SR1", b"REGISTER sip:h SIP/2.0\r\nSerpy-Replica: grp=%08x;" % sealer.group):
            with pytest.raises(DroppedError):
                opened(prefix + data)


@given(st.lists(st.integers(1, 200), max_size=100))
def test_a_window_takes_each_number_exactly_once(numbers):
    window = Window(100)
    taken = [100] + [number for number in numbers if window.take(number)]
    assert len(taken) == len(set(taken)) == window.received
    assert set(taken) == {100, *numbers}


versions = st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 3))


@given(versions, versions)
def test_of_two_registrations_exactly_one_stands(one, other):
    first, second = (
        Binding("u", "c", 1, call_id=call_id, cseq=cseq, modified_at=NOW + when) for call_id, cseq, when in (one, other)
    )
    forward = is_newer(first.call_id, first.cseq, first.modified_at, second)
    backward = is_newer(second.call_id, second.cseq, second.modified_at, first)
    assert not (forward and backward)
    assert forward or backward or (one[0] == other[0] and one[1] == other[1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=4, unique_by=lambda item: item[0]))
def test_replicas_of_one_phone_lead_to_the_same_binding_in_any_order(events):
    """Each event is (CSeq, is a removal); time grows with the CSeq, as a phone counts."""
    expected = max(events)
    now = time.time()
    node = MemoryFarm(1).nodes[0]
    for number, order in enumerate(itertools.permutations(events)):
        uid = f"u{number}"
        for cseq, removes in order:
            when = now - 100 + cseq
            if removes:
                _remove(node, uid, cseq, when)
            else:
                binding = Binding(uid, "sip:c@h", int(now) + 600, call_id="x", cseq=cseq, modified_at=when)
                node.store.merge(TABLE, binding)
        left = [binding.cseq for binding in node.location.bindings(TABLE, uid)]
        assert left == ([] if expected[1] else [expected[0]])


def _remove(node, uid, cseq, when):
    """As a replicated un-registration (Registration with a Replica) does."""

    def decide(current):
        gone = [binding for binding in current if is_newer("x", cseq, when, binding)]
        for binding in gone:
            binding.modified_at = max(binding.modified_at, when)
        node.tombstones.add(TABLE, uid, "sip:c@h", "x", cseq, when, when + 600)
        return [], gone

    node.location.update(TABLE, uid, decide, persist=False)
