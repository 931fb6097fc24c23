"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings
from support.mariadb import Mariadb
from support.postgres import Postgres, UnavailableError

# How long an example takes says how busy the machine is, not whether serpy is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

MORE_FILES = 150  # an ordinary user may have 1024 open
_files_kept = 0  # what the last collection has left open


def pytest_runtest_teardown():
    """What a test leaves in cycles (a receiver has sockets and locks) is closed by the collector only."""
    global _files_kept
    if _open_files() > _files_kept + MORE_FILES:
        gc.collect()
        _files_kept = _open_files()


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - once for each test
    except OSError:  # so many that not even this can be opened
        return 1 << 20


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for this test run."""
    try:
        server = Postgres()
    except UnavailableError as exc:
        pytest.skip(str(exc))
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres):
    """The URL of an empty database on it."""
    return postgres.fresh()


@pytest.fixture(scope="session")
def mysql():
    """A MariaDB server for this test run."""
    pytest.importorskip("pymysql", reason="PyMySQL is not installed (pip install 'serpy[mysql]')")
    try:
        server = Mariadb()
    except UnavailableError as exc:
        pytest.skip(str(exc))
    yield server
    server.close()


@pytest.fixture
def mysql_url(mysql):
    """The URL of an empty database on it."""
    return mysql.fresh()
