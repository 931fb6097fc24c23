"""Fixtures of all tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from support.mariadb import Mariadb
from support.postgres import Postgres, UnavailableError

MANY_FILES = 400  # an ordinary user may have 1024 open


def pytest_runtest_teardown():
    """What a test leaves in cycles (a receiver has sockets and locks) is closed by the collector only."""
    try:
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:  # so many that not even this can be opened
        files = MANY_FILES + 1
    if files > MANY_FILES:
        gc.collect()


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
