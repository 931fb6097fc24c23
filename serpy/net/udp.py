"""UDP datagrams in: socket -> (bytes, Flow), handed to one callback in the order received.

A peer that is heard of again gets the Flow it had. There are PEERS of them at most: one more, and all are forgotten, so
that addresses made up by a stranger cost no memory and cannot stay.

Runs in: udp receiver. Locks: none. RFC: 3261 §18.2.1.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from serpy.net import datagrams
from serpy.net.loop import Loop
from serpy.sip.flow import SEEN, Flow, Listener

PEERS: Final = 4096  # flows that are remembered for each listener
BATCH: Final = 32  # datagrams per wake-up, before timers and other sockets get their turn
PROBE_EVERY: Final = 8
BEHIND: Final = 8  # full batches one after the other: more comes than is worked off


class UdpReader:
    """Reads one listener's socket and calls *receive(data, flow)* per datagram.

    A second read that finds nothing costs more than the poll it saves. So, after one datagram, the socket is read on
    only when the last attempt paid, and every PROBE_EVERY-th time to find out whether it would; and always while the
    loop lets arrivals gather, since what is left would wait for another pause. *behind* is called while it cannot keep up.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, listener: Listener, receive: Callable[[bytes, Flow], None],
        behind: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._sock: Final = sock  # kept open
        self._fd: Final = sock.fileno()
        self._take: Final = datagrams.receive
        self._peers: Final[datagrams.Peers] = {}
        self._listener: Final = listener
        self._receive: Final = receive
        self._behind: Final = behind
        self._full = 0  # batches one after the other
        self._queued = True
        self._until_probe = 0
        loop.add_reader(self._fd, self.read)

    def read(self) -> None:
        """Deliver what waits, at most BATCH datagrams."""
        loop = self._loop
        limit = 1
        if self._queued or loop.pause_s > 0.0:
            limit = BATCH
        else:
            self._until_probe -= 1
            if self._until_probe <= 0:
                limit = BATCH
                self._until_probe = PROBE_EVERY
        count = 0
        while count < limit:
            taken: object = self._take(self._fd, self._peers)
            if not isinstance(
                taken, tuple
            ):  # EAGAIN: empty. Others are about an earlier send; nothing was received either
                break
            count += 1
            data: bytes = taken[0]
            flow = taken[1]
            if not isinstance(flow, Flow):
                flow = self._meet(flow)
                taken = (data, flow)
            loop.current = taken  # for the report of a bug
            self._receive(data, flow)
        loop.arrivals += count
        if count == BATCH:
            loop.backlog = True
            self._full += 1
            if self._full >= BEHIND and self._behind is not None:
                self._behind()
        else:
            self._full = 0
        if limit > 1:
            self._queued = count > 1

    def _meet(self, key: bytes) -> Flow:
        """The flow of a peer that is not remembered."""
        if len(self._peers) >= PEERS:
            self._peers.clear()
        host, port = datagrams.peer(key)
        flow = self._peers[key] = Flow(self._listener, host, port, 0, SEEN)
        return flow
