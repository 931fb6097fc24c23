"""Outgoing -> socket: the only place that sends SIP.

The guard is asked first, whatever it is and however it leaves. A full socket buffer means drop and count, as the network would: whoever needs the message retransmits. Other refusals of
the kernel are a ``TransportError`` at once. What goes over a connection is handed to the TCP receivers (``streams``).

Runs in: udp receiver, timer, ctl. Locks: none. RFC: 3261 §18.1.1, §18.2.2.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from serpy.errors import TransportError
from serpy.net import datagrams
from serpy.net.guard import Guard
from serpy.net.streams import StreamSender
from serpy.sip.flow import Outgoing

_FULL: Final = -errno.EAGAIN


class Sender:
    """Sends by *sockets*, indexed by ``Listener.index``, None where this process has none; and over *streams*."""

    def __init__(
        self, sockets: Sequence[socket.socket | None], guard: Guard, streams: StreamSender | None = None
    ) -> None:
        self.guard: Final = guard
        self.streams: Final = streams
        self._sockets: Final = sockets  # kept open
        self._fds: Final = [-1 if sock is None else sock.fileno() for sock in sockets]
        self._send: Final = datagrams.send
        self.sent = 0
        self.dropped = 0

    def send(self, outgoing: Outgoing) -> None:
        """Send one message. Raises TransportError when this destination cannot be reached from that socket, and
        HeldBackError when it must not be.
        """
        flow = outgoing.flow
        self.guard.check(flow)
        listener = flow.listener
        if flow.transport != "udp" or listener.multicast:
            if flow.transport != "tcp" or self.streams is None:
                raise TransportError(f"cannot send over {listener!r}")
            self.streams.send(outgoing)
            return
        fd = self._fds[listener.index]
        if fd < 0:
            raise TransportError(f"this process has no socket for {listener!r}")
        status = self._send(fd, outgoing.data, flow.host, flow.port)
        if status == 0:
            self.sent += 1
        elif status == _FULL:
            self.dropped += 1
        else:
            raise TransportError(f"cannot send to {flow!r}: {os.strerror(-status)}")
