"""Servers for the system tests: one on SQLite and one on PostgreSQL, each shared by a module."""

from __future__ import annotations

import pytest
from support.running import Running

USERS = ("alice", "bob", "carol")


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def server(request, tmp_path_factory):
    """A running server with alice, bob and carol."""
    url = ""
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres")
        if postgres.server is None:
            postgres.start()
        postgres.sql("drop database if exists ser with (force)")
        postgres.sql("create database ser owner ser")
        url = postgres.url
    running = Running(tmp_path_factory.mktemp("serpy"), url=url).prepare(*USERS).start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def phones(server):
    """A factory of phones that are closed at the end."""
    made = []

    def make(user, **options):
        made.append(server.phone(user, **options))
        return made[-1]

    yield make
    for phone in made:
        if phone.is_registered:
            phone.pending.clear()
            phone.register(expires=0, contact="*")
        phone.close()
