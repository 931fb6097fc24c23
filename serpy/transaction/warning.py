"""The Warning header of our own answers (setting ``sip_warning``): what this server saw, for whoever debugs a call.

Runs in: udp receiver. Locks: none. RFC: 3261 §20.43.
"""

from __future__ import annotations

from serpy.errors import ParseError
from serpy.sip.flow import Flow
from serpy.sip.message import Request


def warning_line(request: Request, flow: Flow, out_uri: str, pid: int) -> str:
    """The header line: who we are (*pid*), where *request* came from, its URI then and now, how many hops it has behind it."""
    try:
        hops = len(request.values("via"))
    except ParseError:
        hops = len(request.indexes("via"))
    text = (
        f"pid={pid} req_src_ip={flow.host} req_src_port={flow.port} in_uri={request.request_uri} "
        f"out_uri={out_uri or request.request_uri} via_cnt={hops}"
    )
    return f'Warning: 392 {flow.listener.sent_by} "{text.replace(chr(92), "").replace(chr(34), "")}"'
