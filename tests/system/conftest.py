"""Servers for the system tests: one on SQLite and one on PostgreSQL, each shared by a module."""

from __future__ import annotations

import contextlib

import pytest
from support.oob import AbsentError, Oob
from support.postgres import Postgres, UnavailableError
from support.running import Running

from serpy.rpc.protocol import RpcFault
from serpy.rpc.protocol import call as ask

USERS = ("alice", "bob", "carol")
TAIL = 4000  # characters of a log that a failure shows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the server of the test has said and counted."""
    report = yield
    running = getattr(item, "funcargs", {}).get("oob") or getattr(item, "funcargs", {}).get("server")
    if report.failed and call.when == "call" and isinstance(running, Running):
        report.sections.append(("log of the server", running.log.read_text(errors="replace")[-TAIL:]))
        with contextlib.suppress(OSError, RpcFault):
            counted = ask(str(running.folder / "ctl"), "stats.get", [], 10.0)
            report.sections.append(
                ("counters", "\n".join(f"{name} {value}" for name, value in counted.items() if value))
            )
    return report


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


@pytest.fixture(scope="session", params=["serpy", "sip-router-oob", "ser-oob"])
def oob_server(request, tmp_path_factory):
    """A server with one of the Out-of-Box configurations: the later published one on PostgreSQL, the others on SQLite."""
    url = ""
    with contextlib.ExitStack() as stack:  # what was started is stopped, also when the server does not start
        if request.param == "sip-router-oob":
            with contextlib.suppress(UnavailableError):
                postgres = Postgres()
                stack.callback(postgres.close)
                url = postgres.url
        try:
            running = Oob(tmp_path_factory.mktemp("oob"), request.param, url=url)
        except AbsentError as exc:
            pytest.skip(str(exc))
        running.prepare(*USERS).start()
        yield running
        status = running.stop()
    assert status == 0, running.log.read_text()[-3000:]


@pytest.fixture
def oob(oob_server):
    """The server, with nobody registered at the end."""
    yield oob_server
    oob_server.close_phones()
