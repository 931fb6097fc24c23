"""The journal of a lane: what is in it after any death."""

from __future__ import annotations

import pytest

from serpy.db.backlog import Backlog
from serpy.errors import BackendError


def opened(path):
    backlog = Backlog(str(path))
    backlog.recover()
    return backlog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.mark.parametrize("cut", [1, 5, 9, 20, 45])
def test_torn_record_at_the_end_of_the_journal_is_cut_off(path, cut):
    first = opened(path)
    first.append([(b"one" * 10, 1, False), (b"two" * 10, 2, False)])
    path.write_bytes(path.read_bytes()[:-cut])
    second = opened(path)
    assert second.first(9) == ([b"one" * 10] if cut < 42 else [])
    second.append([(b"three", 3, True)])
    third = opened(path)
    assert third.first(9)[-1] == b"three"
    assert third.ordered


def test_what_is_done_does_not_come_back(path):
    first = opened(path)
    first.append([(b"one", 1, False), (b"two", 1, False), (b"three", 4, False)])
    first.done(2)
    second = opened(path)
    assert (second.first(9), second.requests) == ([b"three"], 4)


def test_parts_are_taken_by_their_number_of_requests(path):
    backlog = opened(path)
    backlog.append([(b"one", 3, False), (b"two", 3, False), (b"three", 1, False)])
    assert backlog.first(1) == [b"one"]
    assert backlog.first(4) == [b"one", b"two"]


def test_a_journal_with_nothing_in_it_leaves_no_file(path):
    backlog = opened(path)
    assert not path.exists()
    backlog.append([(b"one", 1, True)])
    backlog.done(1)
    assert not backlog.ordered
    backlog.close()
    assert not path.exists()


def test_what_is_no_journal_is_put_aside(path, caplog):
    path.write_bytes(b"something else, and long enough to be looked at")
    backlog = opened(path)
    backlog.append([(b"one", 1, False)])
    assert opened(path).first(1) == [b"one"]
    assert path.with_name("journal.bad").exists()
    assert "started anew" in caplog.text


def test_journal_that_cannot_be_made_refuses_what_it_should_keep(tmp_path):
    with pytest.raises(BackendError, match="journal"):
        Backlog(str(tmp_path / "missing" / "journal")).append([(b"one", 1, False)])
