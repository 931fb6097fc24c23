"""rtpengine: the media functions of the modern dialect over rtpengine. The work is done in ``serpy.rtp``.

Runs in: master (init), udp receiver, timer (tests of the proxies), ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.rtp.faces import MediaModule, media_params
from serpy.rtp.nodes import NG

if TYPE_CHECKING:
    from serpy.api import Exports

DEFAULT_SOCKET: Final = "udp:127.0.0.1:22222"


def exports() -> Exports:
    """A fresh rtpengine module."""
    module = MediaModule("rtpengine", NG, DEFAULT_SOCKET)
    ends = ("rtpengine_delete", "rtpengine_destroy")
    return module.exports(ends, media_params("rtpengine", DEFAULT_SOCKET, "rtpengine_retr"))
