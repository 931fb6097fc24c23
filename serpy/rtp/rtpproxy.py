"""rtpproxy's control protocol as text: commands, and what is in their answers.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ProtocolError
from serpy.rtp.flags import Flags
from serpy.rtp.nodes import REPACKETIZES, TAKES_CODECS
from serpy.rtp.session import Names
from serpy.sip.abnf import parse_number
from serpy.sip.sdp import Media, Target

VERSION: Final = "V"
VERSION_WANTED: Final = b"20040107"
BASIC: Final = "VF 20050322"  # required: several media of one call
REPACKETIZE: Final = "VF 20071116"
CODECS: Final = "VF 20081102"
_IP_CHARACTERS: Final = frozenset("0123456789abcdefABCDEF.:")
_SHOWN: Final = 60


def media_command(
    flags: Flags, names: Names, media: Media, number: int, host: str, *, is_offer: bool, features: int
) -> str:
    """U or L for media *number* (from 1) that is received at *host* and the port of *media*."""
    create = is_offer and not flags.lookup_only
    options = ["U" if create else "L"]
    if flags.asymmetric:
        options.append("A")
    options.append(flags.sides.upper())
    if ":" in host:
        options.append("6")
    if flags.repacketize and features & REPACKETIZES:
        options.append(f"Z{flags.repacketize}")
    if create and features & TAKES_CODECS:
        codecs = [word for word in media.formats.split(" ") if parse_number(word, 127) >= 0]
        if codecs:
            options.append("c" + ",".join(codecs))
    command = f"{''.join(options)} {names.call_id} {host} {media.port} {names.from_tag};{number}"
    return f"{command} {names.to_tag};{number}" if names.to_tag else command


def delete_command(names: Names) -> str:
    """D: the session is over."""
    return _with_tags("D", names)


def record_command(names: Names) -> str:
    """R: write the session to the proxy's disk."""
    return _with_tags("R", names)


def _with_tags(letter: str, names: Names) -> str:
    command = f"{letter} {names.call_id} {names.from_tag}"
    return f"{command} {names.to_tag}" if names.to_tag else command


def parse_media_answer(data: bytes, default_host: str) -> Target:
    """Where the proxy listens: ``port[ ip[ 6]]``; without an ip at *default_host*. Raises ProtocolError."""
    text = data.strip(b" \t\r\n\0").decode("ascii", "replace")
    words = text.split(" ")
    port = parse_number(words[0], 65535)
    if port <= 0:
        raise ProtocolError(f"the media proxy answers {text[:_SHOWN]!r}")
    if len(words) == 1:
        return Target(default_host, port, ":" in default_host)
    host = words[1]
    if not 2 <= len(host) <= 45 or not _IP_CHARACTERS.issuperset(host):
        raise ProtocolError(f"the media proxy answers {text[:_SHOWN]!r}")
    return Target(host, port, ":" in host)
