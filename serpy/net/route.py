"""Which of our addresses the kernel would send from (setting ``mhomed``).

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import socket


def source_address(host: str) -> str:
    """The local address on the route to the numeric *host*, "" when there is no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # A new socket each time: one that has been connected keeps its address. Connecting sends nothing.
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])
