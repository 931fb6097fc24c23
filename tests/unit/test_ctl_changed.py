"""What ctl does when a database tells of changed rows."""

from types import SimpleNamespace

import pytest

from serpy.db.schema import CACHED
from serpy.errors import BackendError
from serpy.workers.ctl import CtlWorker


class Bumps(list):
    def bump(self, name):
        self.append(name)


def worker(*urls, database=None):
    exports = {str(number): SimpleNamespace(module=SimpleNamespace(db_url=url)) for number, url in enumerate(urls)}
    made = CtlWorker.__new__(CtlWorker)
    made.server = SimpleNamespace(counters=Bumps(), exports=exports, database=database)
    return made


@pytest.mark.parametrize(
    ("table", "names"),
    [
        pytest.param("domain_attrs", ["domain"], id="attributes-of-domains-are-kept-with-the-domains"),
        pytest.param("credentials", ["credentials"], id="credentials"),
        pytest.param("acc", [], id="not-kept"),
        pytest.param("", list(dict.fromkeys(CACHED.values())), id="any"),
    ],
)
def test_a_changed_table_moves_its_generation(table, names):
    made = worker()
    made._changed(table)
    assert made.server.counters == names


def test_every_database_that_can_tell_is_watched_once():
    watched = []

    def database(url):
        if "down" in url:
            raise BackendError("down")
        return (
            SimpleNamespace(watch=lambda call: watched.append((url, call))) if "postgres" in url else SimpleNamespace()
        )

    urls = ("postgres://a/b", "", "sqlite:///x", "mysql://a/b", "postgres://a/b", "postgres://down/b", "postgres://c/d")
    made = worker(*urls, database=database)
    made._watch_databases()
    assert watched == [("postgres://a/b", made._changed), ("postgres://c/d", made._changed)]
