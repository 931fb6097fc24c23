"""Addresses of database hosts. The system's lookup blocks, for 20 s and more when its name servers are silent: a handler
has it done in a thread and parks, and all who want the same host meanwhile wait for the same thread.

Runs in: every process that queries; the thread does nothing but look up and say so. Locks: none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Final

from serpy.db.pool import DeadlineError
from serpy.net.waiters import Crowd
from serpy.sip.address import plain_address

if TYPE_CHECKING:
    from serpy.net.loop import Loop


class Lookup:
    """One lookup in a thread; ``end()`` runs in the loop when the thread has written to its pipe."""

    def __init__(self, loop: Loop, host: str) -> None:
        self.loop: Final = loop
        self.host: Final = host
        self.crowd: Final = Crowd(loop, loop.waiters.database)
        self.found: list[str] = []
        self.error = ""
        self._reader, self._writer = os.pipe()
        loop.add_reader(self._reader, self.end)
        threading.Thread(target=self._look, name=f"lookup {host}", daemon=True).start()

    def _look(self) -> None:
        try:
            self.found = blocking(self.host)
        except OSError as exc:
            self.error = exc.strerror or "no address"
        finally:
            os.close(self._writer)

    def end(self) -> None:
        """The thread has ended: tell all who wait."""
        self.loop.remove_reader(self._reader)
        os.close(self._reader)
        _running.pop(self.host, None)
        self.crowd.answer(True)


_running: Final[dict[str, Lookup]] = {}


def addresses(host: str, loop: Loop | None, deadline: float) -> list[str]:
    """The addresses of *host*, never none. Parks where that is possible: hold a place for the database.

    Raises OSError, DeadlineError; ResourceError when too many are parked.
    """
    literal = plain_address(host)
    if literal:
        return [literal]
    if loop is None or not loop.can_park():
        return blocking(host)
    lookup = _running.get(host)
    if lookup is None or lookup.loop is not loop:
        lookup = _running[host] = Lookup(loop, host)
    if lookup.crowd.wait(deadline) is None:
        raise DeadlineError(f"{host} was not found in time")
    if lookup.error or not lookup.found:
        raise OSError(f"{host}: {lookup.error or 'no address'}")
    return lookup.found


def blocking(host: str) -> list[str]:
    """The addresses of *host* as the system finds them, in its order. Raises OSError."""
    found: list[str] = []
    with contextlib.suppress(UnicodeError):  # no such name can exist
        for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            address = str(entry[4][0])
            if address not in found:
                found.append(address)
    if not found:
        raise OSError(f"{host}: no address")
    return found
