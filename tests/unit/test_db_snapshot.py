"""Rows loaded as a whole: what was loaded stays of use when it cannot be loaded again."""

from __future__ import annotations

import pytest

from serpy.db.snapshot import Snapshot
from serpy.errors import BackendError, ResourceError
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment


class Source:
    def __init__(self):
        self.error = None

    def load(self, _database):
        if self.error is not None:
            raise self.error
        return ["row"]


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def snapshot(source):
    found = Snapshot("domains", source.load, [])
    counters = Counters(Segment(1 << 20), 1)
    counters.bump("domains")
    found.attach(counters, lambda: None)
    return found


ERRORS = [BackendError("gone"), ResourceError("200 handlers wait for the database already")]


@pytest.mark.parametrize("error", ERRORS, ids=["failed", "refused"])
def test_rows_that_cannot_be_loaded_again_are_used_on(snapshot, source, error):
    assert snapshot.get() == ["row"]
    snapshot._counters.bump("domains")
    source.error = error
    assert snapshot.get() == ["row"]


@pytest.mark.parametrize("error", ERRORS, ids=["failed", "refused"])
def test_rows_that_were_never_loaded_are_a_backend_error(snapshot, source, error):
    source.error = error
    with pytest.raises(BackendError, match=str(error)):
        snapshot.get()
