"""Outgoing -> socket: the only place that sends SIP.

The guard is asked first, whatever it is and however it leaves. A full socket buffer means drop and count, as the network would: whoever needs the message retransmits. Other refusals of
the kernel are a ``TransportError`` at once. What goes over a connection is handed to the TCP receivers (``streams``).

Runs in: udp receiver, timer, ctl. Locks: none. RFC: 3261 §18.1.1, §18.2.2.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from serpy.errors import TransportError
from serpy.net.guard import Guard
from serpy.net.streams import StreamSender
from serpy.sip.flow import Outgoing


class Sender:
    """Sends by *sockets*, indexed by ``Listener.index``, None where this process has none; and over *streams*."""

    def __init__(
        self, sockets: Sequence[socket.socket | None], guard: Guard, streams: StreamSender | None = None
    ) -> None:
        self.guard: Final = guard
        self.streams: Final = streams
        self._sendto: Final[list[Any]] = [None if sock is None else sock.sendto for sock in sockets]  # bound methods
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
        sendto = self._sendto[listener.index]
        if sendto is None:
            raise TransportError(f"this process has no socket for {listener!r}")
        try:
            sendto(outgoing.data, flow.sockaddr)
        except BlockingIOError:
            self.dropped += 1
        except OSError as exc:
            raise TransportError(f"cannot send to {flow!r}: {exc.strerror or exc}") from None
        else:
            self.sent += 1
