"""One datagram in, one out, of a socket that nobody waits for: in C (``_udp.c``) where that is compiled, else by the twin here.

Both give the same answers to everything. They take an fd, and say an errno with a minus instead of raising: an empty read
ends every batch. Peers are told apart by a *key*, address and port as they came from the network (6 or 18 bytes), so that
the address of one that is known already is not written out again.

Runs in: udp receiver, timer, ctl. Locks: none. RFC: 768, 3493.
"""

from __future__ import annotations

import errno
import os
from _socket import AF_INET, AF_INET6, MSG_DONTWAIT, SOCK_DGRAM, inet_ntop, inet_pton, socket
from collections.abc import Callable
from typing import Final

from serpy.sip.flow import Flow

LARGEST: Final = 65535  # bytes of a datagram; what is longer (a jumbogram) is cut
INT_MAX: Final = 0x7FFFFFFF

Peers = dict[bytes, Flow]
Taken = tuple[bytes, Flow] | tuple[bytes, bytes] | int


def peer_plain(key: bytes, /) -> tuple[str, int]:
    """The address and port that *key* stands for. Raises ValueError."""
    return inet_ntop(AF_INET if len(key) == 6 else AF_INET6, key[:-2]), key[-2] << 8 | key[-1]


def receive_plain(fd: int, peers: Peers, /) -> Taken:
    """What has come: (data, flow of *peers*), (data, key) when they do not have it, or an errno with a minus."""
    try:
        sock = _borrowed(AF_INET6, fd)  # the family only says how much room an address has
        try:
            data, address = sock.recvfrom(LARGEST, MSG_DONTWAIT)
        finally:
            sock.detach()
    except OSError as exc:
        return -(exc.errno or errno.EIO)
    if not isinstance(address, tuple):
        return -errno.EAFNOSUPPORT
    host = inet_pton(AF_INET6 if ":" in address[0] else AF_INET, address[0].partition("%")[0])
    key = host + address[1].to_bytes(2, "big")
    flow = peers.get(key)
    return (data, key) if flow is None else (data, flow)


def send_plain(fd: int, data: bytes, host: str, port: int, /) -> int:
    """0, or an errno with a minus; EINVAL when *host* is no address or *port* no port. No name is looked up."""
    family = AF_INET6 if ":" in host else AF_INET
    if not 0 <= port <= 65535:
        return -errno.EINVAL
    try:
        inet_pton(family, host)
        sock = _borrowed(family, fd)
        try:
            sock.sendto(data, MSG_DONTWAIT, (host, port))
        finally:
            sock.detach()
    except OSError as exc:
        return -(exc.errno or errno.EINVAL)  # inet_pton says no number
    except ValueError:  # characters that no address has
        return -errno.EINVAL
    return 0


def _borrowed(family: int, fd: int) -> socket:
    """A socket object for *fd*, to be detached again. Raises OSError."""
    if not 0 <= fd <= INT_MAX:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return socket(family, SOCK_DGRAM, 0, fd)


receive: Callable[[int, Peers], Taken] = receive_plain
send: Callable[[int, bytes, str, int], int] = send_plain
peer: Callable[[bytes], tuple[str, int]] = peer_plain
try:
    from serpy.net import _udp
except ImportError:  # nothing was compiled
    pass
else:
    receive, send, peer = _udp.receive, _udp.send, _udp.peer
