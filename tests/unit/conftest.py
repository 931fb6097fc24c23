"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from serpy.script.runtime import HOOKS

LENT = (
    "forward", "is_myself", "is_my_address", "find_listener", "cfg_get", "server_id", "resolve", "tcp_alias",
    "max_while_loops",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _hooks_of_its_own():
    """A test that loads a whole server leaves its hooks behind: the next test gets those of a fresh process."""
    kept = [(name, getattr(HOOKS, name)) for name in LENT]
    yield
    for name, value in kept:
        setattr(HOOKS, name, value)
