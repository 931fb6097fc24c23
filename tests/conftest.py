"""Fixtures of all tests."""

from __future__ import annotations

import pytest
from support.postgres import Postgres, UnavailableError


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
    if postgres.server is None:
        postgres.start()
    postgres.sql("drop database if exists ser with (force)")
    postgres.sql("create database ser owner ser")
    return postgres.url
