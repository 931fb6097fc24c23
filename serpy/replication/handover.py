"""From a receiver to the timer process: the REGISTER that is to be multicast, with where to and when it was taken.

Runs in: udp receiver (send), timer (decode). Locks: none.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from serpy.net.handoff import REPLICATE
from serpy.replication.merge import milliseconds

if TYPE_CHECKING:
    from serpy.net.handoff import Channels
    from serpy.sip.flow import Flow

_HEAD: Final = struct.Struct("=QHHB")  # milliseconds, listener index, port, length of the group address


class Handover:
    """Gives REGISTERs to the process in slot *timer*."""

    def __init__(self, channels: Channels, timer: int) -> None:
        self._channels: Final = channels
        self._timer: Final = timer

    def send(self, data: bytes, flow: Flow, wall_now: float) -> bool:
        """Hand *data* over; False when the timer process has too much to do. It is then found missing and repaired."""
        return self._channels.send(self._timer, REPLICATE, encode(data, flow, wall_now))


def encode(data: bytes, flow: Flow, wall_now: float) -> bytes:
    """The payload of REPLICATE."""
    group = flow.host.encode("ascii")
    return _HEAD.pack(milliseconds(wall_now), flow.listener.index, flow.port, len(group)) + group + data


def decode(payload: bytes) -> tuple[bytes, int, str, int, int]:
    """(data, listener index, group, port, milliseconds) of such a payload."""
    taken_ms, listener, port, length = _HEAD.unpack_from(payload)
    end = _HEAD.size + length
    return payload[end:], listener, payload[_HEAD.size : end].decode("ascii"), port, taken_ms
