"""Every count and length the SIP layer accepts, in one place.

The numbers are generous: ten times what real phones and trunks send. They exist so that one datagram costs a known
maximum of time and memory.

Runs in: every process. Locks: none. RFC: 3261 (which sets few of these itself).
"""

from __future__ import annotations

from typing import Final

MESSAGE_MAX: Final = 65535  # bytes; what one UDP datagram can carry
HEAD_MAX: Final = 32768  # bytes of start line and headers with the empty line; what follows is the body
STREAM_QUEUE_MAX: Final = 4 * 1024 * 1024  # bytes that wait for the reader of one connection
STREAM_ALIASES_MAX: Final = 8  # addresses that one connection may lead to besides its own
HEADERS_MAX: Final = 256  # header lines of one message
LINE_MAX: Final = 16384  # characters of one (unfolded) header line; RFC 4475 longreq has one of 1.2 kB
NAME_MAX: Final = 128  # characters of a header name
METHOD_MAX: Final = 64  # characters
URI_MAX: Final = 4096  # characters
VALUES_MAX: Final = 128  # comma separated values of one header name
PARAMS_MAX: Final = 64  # parameters of one value
URI_CACHE: Final = 4096  # parsed URIs kept per process
NAMES_KEPT: Final = 512  # header names of strangers that a process remembers

CSEQ_MAX: Final = 2**31 - 1  # RFC 3261 §8.1.1.5
CSEQ_DIGITS: Final = 10
MAX_FORWARDS_MAX: Final = 255  # RFC 3261 §20.22
EXPIRES_MAX: Final = 2**32 - 1  # RFC 3261 §20.19
DIGITS_MAX: Final = 18  # longer runs of digits are never given to int()
PORT_MAX: Final = 65535
KEEPALIVE_MAX: Final = 10  # bytes; "A a SIP/2.0" has more, keep-alives such as "jaK" have less
SDP_MEDIA_MAX: Final = 32  # m= lines of one body; each costs a question to the media proxy
BODY_PARTS_MAX: Final = 32  # parts of a multipart body that are looked at
