"""The flags of the media functions, in both spellings: letters (rtpproxy) and words (rtpengine).

Letters: ``r`` trust the address in the SDP, ``a`` asymmetric (and ``r``), ``i`` ``e`` internal and external side, ``l`` look
up only, ``f`` also when a proxy is in the way already, ``nX`` node number X, ``zX`` packets of X milliseconds, ``c`` also the c=
of the session, ``o`` also o=. Words are those of rtpengine's protocol; a text with a space, "-", "=" or "/" is words.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

from typing import Final

_IGNORED: Final = "swxbhtd1234567890"  # letters of other implementations that change nothing here
_PROFILES: Final = {
    "rtp/avp": "RTP/AVP",
    "rtp/avpf": "RTP/AVPF",
    "rtp/savp": "RTP/SAVP",
    "rtp/savpf": "RTP/SAVPF",
    "udp/tls/rtp/savp": "UDP/TLS/RTP/SAVP",
    "udp/tls/rtp/savpf": "UDP/TLS/RTP/SAVPF",
    "rtp": "RTP/AVP",
    "srtp": "RTP/SAVP",
}
_KEYS: Final = {
    "ice": "ICE",
    "dtls": "DTLS",
    "via-branch": "via-branch",
    "media-address": "media address",
    "address-family": "address family",
    "ptime": "ptime",
    "transport-protocol": "transport-protocol",
    "dtls-reverse": "DTLS-reverse",
    "ice-lite": "ICE-lite",
}
_LISTS: Final = {"rtcp-mux": "rtcp-mux", "sdes": "SDES", "replace": "replace", "osrtp": "OSRTP"}


class Flags:
    """What one call of a media function asks for. ``problem`` is "" or says which flag is not one."""

    def __init__(self) -> None:
        self.trust = False
        self.asymmetric = False
        self.sides = ""  # letters i and e in the order given
        self.lookup_only = False
        self.force = False
        self.node = -1
        self.repacketize = 0
        self.session_connection = False
        self.origin = False
        self.words: list[str] = []  # rtpengine: its list of flags
        self.replace: list[str] = []
        self.direction: list[str] = []
        self.values: dict[str, str] = {}  # rtpengine: single keys
        self.lists: dict[str, list[str]] = {}
        self.problem = ""


_known: Final[dict[str, Flags]] = {}
_KNOWN_MAX: Final = 256


def parse_flags(text: str) -> Flags:
    """What *text* asks for; kept, as the script uses few texts."""
    found = _known.get(text)
    if found is None:
        found = _words(text) if any(mark in text for mark in (" ", "-", "=", "/")) else _letters(text)
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[text] = found
    return found


def _letters(text: str) -> Flags:
    flags = Flags()
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if letter in "nNzZ":
            start = at
            while at < len(text) and text[at] in "0123456789":
                at += 1
            digits = text[start:at]
            if not 0 < len(digits) <= 4:
                flags.problem = f"{letter} needs a number"
                return flags
            if letter in "nN":
                flags.node = int(digits)
            else:
                flags.repacketize = int(digits)
        elif letter in "rR":
            flags.trust = True
        elif letter in "aA":
            flags.asymmetric = flags.trust = True
        elif letter in "iIeE":
            flags.sides += letter.lower()
        elif letter in "lL":
            flags.lookup_only = True
        elif letter in "fF":
            flags.force = True
        elif letter in "cC":
            flags.session_connection = True
        elif letter in "oO":
            flags.origin = True
        elif letter.lower() not in _IGNORED:
            flags.problem = f"unknown flag {letter!r}"
            return flags
    for side in flags.sides:
        flags.direction.append("internal" if side == "i" else "external")
    return flags


def _words(text: str) -> Flags:
    flags = Flags()
    for word in text.replace(",", " ").split():
        key, equals, value = word.partition("=")
        name = key.lower()
        if equals:
            _pair(flags, name, key, value)
        elif name in _PROFILES:
            flags.values["transport-protocol"] = _PROFILES[name]
        elif name == "trust-address":
            flags.trust = True
        elif name == "sip-source-address":
            flags.trust = False
        elif name == "asymmetric":
            flags.asymmetric = True
        elif name == "symmetric":
            flags.asymmetric = False
        elif name == "replace-origin":
            flags.origin = True
        elif name == "replace-session-connection":
            flags.session_connection = True
        elif name in {"internal", "external"}:
            flags.direction.append(name)
            flags.sides += name[0]
        elif name == "force":
            flags.force = True
        elif name.startswith("replace-"):
            flags.replace.append(name.removeprefix("replace-").replace("-", " "))
        elif name.startswith("rtcp-mux-"):
            flags.lists.setdefault("rtcp-mux", []).append(name.removeprefix("rtcp-mux-"))
        else:
            flags.words.append(key)
    return flags


def _pair(flags: Flags, name: str, key: str, value: str) -> None:
    if name == "direction":
        flags.direction.append(value)
        if value in {"internal", "external"}:
            flags.sides += value[0]
    elif name == "node" and value.isascii() and value.isdigit() and len(value) <= 4:
        flags.node = int(value)
    elif name in _LISTS:
        flags.lists.setdefault(_LISTS[name], []).append(value)
    else:
        flags.values[_KEYS.get(name, key)] = value
