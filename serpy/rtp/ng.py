"""rtpengine's ng protocol: requests as dictionaries, and what is in their answers.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ProtocolError
from serpy.rtp.bencode import Encodable, decode, encode
from serpy.rtp.flags import Flags
from serpy.rtp.session import Names

PING: Final = encode({"command": "ping"})
_SHOWN: Final = 120


def description(
    flags: Flags, names: Names, sdp: bytes, source: str, media_address: str, *, is_offer: bool
) -> bytes:  # fmt: skip
    """The request that hands in *sdp*, which came from *source*."""
    words: list[Encodable] = ["trust-address" if flags.trust else "SIP-source-address", *flags.words]
    if flags.asymmetric:
        words.append("asymmetric")
    replace: list[Encodable] = list(flags.replace)
    if flags.origin:
        replace.append("origin")
    if flags.session_connection:
        replace.append("session connection")
    request: dict[str, Encodable] = {
        "command": "offer" if is_offer and not flags.lookup_only else "answer",
        "call-id": names.call_id,
        "from-tag": names.from_tag,
        "sdp": sdp,
        "received from": ["IP6" if ":" in source else "IP4", source],
        "flags": words,
        **flags.values,
    }
    for key, values in flags.lists.items():
        request[key] = list(values)
    if names.to_tag:
        request["to-tag"] = names.to_tag
    if replace:
        request["replace"] = replace
    if flags.direction:
        request["direction"] = [*flags.direction, *flags.direction] if len(flags.direction) == 1 else flags.direction
    if flags.repacketize:
        request["ptime"] = flags.repacketize
    if media_address:
        request["media address"] = media_address
    return encode(request)


def delete(names: Names) -> bytes:
    """The session is over."""
    return _about(names, "delete")


def record(names: Names) -> bytes:
    """Write the session to the proxy's disk."""
    return _about(names, "start recording")


def _about(names: Names, command: str) -> bytes:
    request: dict[str, Encodable] = {"command": command, "call-id": names.call_id, "from-tag": names.from_tag}
    if names.to_tag:
        request["to-tag"] = names.to_tag
    return encode(request)


def parse_description(data: bytes) -> bytes:
    """The description to send on. Raises ProtocolError when the proxy refuses or answers nonsense."""
    answer = decode(data)
    sdp = answer.get(b"sdp") if isinstance(answer, dict) and answer.get(b"result") == b"ok" else None
    if not isinstance(sdp, bytes) or not sdp.startswith(b"v="):
        raise ProtocolError(f"the media proxy answers {data[:_SHOWN]!r}")
    return sdp


def is_pong(data: bytes) -> bool:
    """True when *data* answers a ping."""
    try:
        answer = decode(data)
    except ProtocolError:
        return False
    return isinstance(answer, dict) and answer.get(b"result") == b"pong"
