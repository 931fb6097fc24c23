"""rtpproxy: the media functions of the modern dialect over rtpproxy. The work is done in ``serpy.rtp``.

Runs in: master (init), udp receiver, timer (tests of the proxies), ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.rtp.faces import MediaModule, media_params
from serpy.rtp.nodes import RTPPROXY

if TYPE_CHECKING:
    from serpy.api import Exports

DEFAULT_SOCKET: Final = "unix:/var/run/rtpproxy.sock"


def exports() -> Exports:
    """A fresh rtpproxy module."""
    module = MediaModule("rtpproxy", RTPPROXY, DEFAULT_SOCKET)
    ends = ("rtpproxy_destroy", "unforce_rtp_proxy", "rtpproxy_delete")
    return module.exports(ends, media_params("rtpproxy", DEFAULT_SOCKET, "rtpproxy_retr"))
