"""Varied SIP traffic as bytes: callers who differ in name, agent, Contact parameters, one odd header and SDP.

A *dialogue* is a generator: it yields (message, host, port) as a peer sends it, gets back the list of messages that the
server sent because of it, and raises ``Unexpected`` when that is not what the RFC asks for. Equal numbers give equal
traffic; no two callers look the same.

Runs in: bench only. RFC: 3261, 7616.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Generator

Sent = list[bytes]
Dialogue = Generator[tuple[bytes, str, int], Sent, None]

SERVER = ("198.51.100.1", 5060)
DOMAIN = "bench.example.com"
CALLERS = 10_000
CALLEES = 100  # registered users that are called
NAMES = [
    "Ada",
    "Bela",
    "Cleo",
    "Dora",
    "Emil",
    "Fay",
    "Gus",
    "Hanna",
    "Ivo",
    "Jana",
    "Kai",
    "Lena",
    "Milo",
    "Nora",
    "Otto",
    "Pia",
    "Quirin",
    "Rosa",
    "Sven",
    "Tilda",
]
SURNAMES = [
    "Abel",
    "Berg",
    "Conti",
    "Dietz",
    "Ekman",
    "Fuchs",
    "Grau",
    "Holm",
    "Iske",
    "Jahn",
    "Klein",
    "Lund",
    "Maas",
    "Nagy",
    "Oster",
    "Pohl",
    "Rust",
    "Sand",
    "Thal",
]
AGENTS = ["Deskphone", "Softphone", "Gateway", "Doorbell", "Handset", "Conference", "Adapter", "Trunk"]
ODD_HEADERS = (
    "Subject: about {0}", "Organization: {0} and {1}", "Priority: normal", "Accept-Language: en, de;q=0.{2}",
    "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE", "X-Serial: {0}-{2}", "Date: Sat, 13 Nov 2010 23:29:00 GMT",
    "Accept: application/sdp, application/{0}", "Privacy: none", "User-To-User: {2}a{2}", "Alert-Info: <http://www.example.com/{0}.wav>",
)  # fmt: skip
CONTACT_PARAMETERS = ("", ";transport=udp", ";line={0}", ";ob", ";user=phone", ";rinstance={0}{0}", ";nat=yes;x={0}")
CODECS = ("0 PCMU/8000", "8 PCMA/8000", "9 G722/8000", "18 G729/8000", "96 opus/48000/2", "101 telephone-event/8000")


class Unexpected(Exception):  # noqa: N818 - a finding
    """The server did something else than it should: what was measured means nothing."""


class Phone:
    """Peer number *number*: its address, and all the texts by which it differs from the others."""

    def __init__(self, number: int, *, is_odd: bool = False) -> None:
        rng = random.Random(number)
        self.is_odd = is_odd  # more headers of its own, in an order of its own
        self.user = f"u{number}"
        self.host = f"203.0.{100 + number // 250 % 50}.{number % 250 + 1}"
        self.port = 5060 if number % 3 else 5062 + number % 4000
        self.display = f'"{rng.choice(NAMES)} {rng.choice(SURNAMES)}" ' if number % 4 else ""
        self.agent = f"{rng.choice(AGENTS)}/{rng.randint(1, 9)}.{rng.randint(0, 99)}.{rng.randint(0, 9999)}"
        word = f"{rng.getrandbits(rng.choice((16, 24, 32))):x}"
        self.odd = rng.choice(ODD_HEADERS).format(word, rng.choice(SURNAMES), rng.randint(1, 9))
        self.contact = f"<sip:{self.user}@{self.host}:{self.port}{rng.choice(CONTACT_PARAMETERS).format(word)}>"
        self.tag = f"{rng.getrandbits(48):x}"
        self.call_id = f"{rng.getrandbits(64):x}-{number}@{self.host}"
        self.sdp = self._sdp(rng)
        self._rng = rng
        self._cseq = rng.randint(1, 30_000)

    def _sdp(self, rng: random.Random) -> str:
        codecs = rng.sample(CODECS, rng.randint(1, len(CODECS)))
        lines = [
            "v=0", f"o={self.user} {rng.getrandbits(40)} {rng.getrandbits(20)} IN IP4 {self.host}", "s=-",
            f"c=IN IP4 {self.host}", "t=0 0",
            f"m=audio {rng.randrange(10000, 60000, 2)} RTP/AVP {' '.join(codec.split()[0] for codec in codecs)}",
            *(f"a=rtpmap:{codec}" for codec in codecs), *(["a=sendrecv"] if rng.random() < 0.5 else []),
        ]  # fmt: skip
        return "\r\n".join(lines) + "\r\n"

    def request(
        self, method: str, uri: str, to: str, *extra: str, cseq: int = 0, branch: str = "", body: str = ""
    ) -> bytes:  # fmt: skip
        """A request of this phone in its one dialog; *cseq* 0 takes the next number."""
        if not cseq:
            self._cseq += 1
            cseq = self._cseq
        rport = ";rport" if self.port != 5060 else ""
        lines = [
            "Max-Forwards: 70", f"From: {self.display}<sip:{self.user}@{DOMAIN}>;tag={self.tag}", f"To: {to}",
            f"Call-ID: {self.call_id}", f"CSeq: {cseq} {method}", f"Contact: {self.contact}", *extra,
            f"User-Agent: {self.agent}", self.odd,
        ]  # fmt: skip
        if self.is_odd:
            lines = self._shuffled([*lines, *self._own_lines()])
        via = f"Via: SIP/2.0/UDP {self.host}:{self.port};branch={branch or self.branch()}{rport}"
        end = [*(["Content-Type: application/sdp"] if body else []), f"Content-Length: {len(body)}"]
        return ("\r\n".join([f"{method} {uri} SIP/2.0", via, *lines, *end]) + "\r\n\r\n" + body).encode()

    def _own_lines(self) -> list[str]:
        """Three headers that no other phone has so."""
        return [f"Subject: {self.user} about {self.tag}", f"X-Serial: {self.call_id}", f"Organization: {self.tag} Ltd"]

    def _shuffled(self, lines: list[str]) -> list[str]:
        """*lines* in the order of this phone; those of one name, Route, stay as they are among themselves."""
        routes = [line for line in lines if line.startswith("Route:")]
        rest = [line for line in lines if not line.startswith("Route:")]
        random.Random(self.user).shuffle(rest)
        return routes + rest

    def branch(self) -> str:
        return f"z9hG4bK{self._rng.getrandbits(64):x}"

    def answer(self, request: bytes, status: str, body: str = "") -> bytes:
        """What this phone says to *request*, with our own tag and Contact."""
        lines = [f"SIP/2.0 {status}"]
        for line in request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
            name = line.partition(":")[0].lower()
            if name in ("via", "from", "call-id", "cseq", "record-route"):
                lines.append(line)
            elif name == "to":
                lines.append(line if ";tag=" in line else f"{line};tag={self.tag}")
        lines += [f"Contact: {self.contact}", f"Server: {self.agent}", *(self._own_lines() if self.is_odd else [])]
        lines += ["Content-Type: application/sdp"] if body else []
        return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n" + body).encode()


def find(sent: Sent, start: str) -> bytes:
    """The message among *sent* that begins with *start*."""
    for data in sent:
        if data.startswith(start.encode()):
            return data
    raise Unexpected(f"no {start} in {[data[:200] for data in sent]}")


def values(message: bytes, name: str) -> list[str]:
    """The values of all header lines *name*."""
    head = message.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [line.partition(":")[2].strip() for line in head if line.partition(":")[0].lower() == name]


def credentials(challenged: bytes, user: str, method: str, uri: str) -> str:
    """The Authorization line that answers a 401 or 407; passwords are p and the number of the user."""
    proxy = challenged.startswith(b"SIP/2.0 407")
    challenge = values(challenged, "proxy-authenticate" if proxy else "www-authenticate")[0]
    found = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge))
    secret = _md5(f"{user}:{found['realm']}:p{user[1:]}")
    cnonce = user[::-1] + "c"
    response = _md5(f"{secret}:{found['nonce']}:00000001:{cnonce}:auth:{_md5(f'{method}:{uri}')}")
    return (
        f'{"Proxy-" if proxy else ""}Authorization: Digest username="{user}", realm="{found["realm"]}", '
        f'nonce="{found["nonce"]}", uri="{uri}", response="{response}", algorithm=MD5, cnonce="{cnonce}", qop=auth, nc=00000001'
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def options(number: int) -> Dialogue:
    """A question to the server itself."""
    phone = Phone(number)
    uri = f"sip:{SERVER[0]}:{SERVER[1]}"
    sent = yield phone.request("OPTIONS", uri, f"<{uri}>"), phone.host, phone.port
    find(sent, "SIP/2.0 200")


def register(number: int) -> Dialogue:
    """REGISTER, 401, REGISTER with credentials, 200."""
    phone = Phone(number)
    uri, to = f"sip:{DOMAIN}", f"<sip:{phone.user}@{DOMAIN}>"
    sent = yield phone.request("REGISTER", uri, to, "Expires: 3600"), phone.host, phone.port
    proof = credentials(find(sent, "SIP/2.0 401"), phone.user, "REGISTER", uri)
    sent = yield phone.request("REGISTER", uri, to, "Expires: 3600", proof), phone.host, phone.port
    if not values(find(sent, "SIP/2.0 200"), "contact"):
        raise Unexpected("the binding is not in the 200")


def call(number: int) -> Dialogue:
    """INVITE, 180, 200, ACK, BYE, 200 with a callee that the Request-URI names."""
    caller, callee = Phone(number), Phone(number + CALLERS)
    uri = f"sip:service@{callee.host}:{callee.port}"
    first = caller.request("INVITE", uri, f"<{uri}>", body=caller.sdp)
    yield from _answered(caller, callee, f"<{uri}>", first)


def varied(number: int) -> Dialogue:
    """The same between phones of which each has more headers of its own, in an order of its own."""
    caller, callee = Phone(number, is_odd=True), Phone(number + CALLERS, is_odd=True)
    uri = f"sip:service@{callee.host}:{callee.port}"
    first = caller.request("INVITE", uri, f"<{uri}>", body=caller.sdp)
    yield from _answered(caller, callee, f"<{uri}>", first)


def oob_call(number: int) -> Dialogue:
    """A call to a registered user, after a challenge."""
    caller, callee = Phone(number), Phone(number % CALLEES)
    uri = f"sip:{callee.user}@{DOMAIN}"
    branch = caller.branch()
    first = caller.request("INVITE", uri, f"<{uri}>", branch=branch, body=caller.sdp)
    sent = yield first, caller.host, caller.port
    challenged = find(sent, "SIP/2.0 407")
    cseq = int(values(challenged, "cseq")[0].split()[0])
    yield caller.request("ACK", uri, values(challenged, "to")[0], cseq=cseq, branch=branch), caller.host, caller.port
    proof = credentials(challenged, caller.user, "INVITE", uri)
    yield from _answered(caller, callee, f"<{uri}>", caller.request("INVITE", uri, f"<{uri}>", proof, body=caller.sdp))


def _answered(caller: Phone, callee: Phone, to: str, invite: bytes) -> Dialogue:
    sent = yield invite, caller.host, caller.port
    arrived = find(sent, "INVITE")
    sent = yield callee.answer(arrived, "180 Ringing"), callee.host, callee.port
    find(sent, "SIP/2.0 180")
    sent = yield callee.answer(arrived, "200 OK", callee.sdp), callee.host, callee.port
    answer = find(sent, "SIP/2.0 200")
    routes = [f"Route: {value}" for value in reversed(values(answer, "record-route"))]
    target = values(answer, "contact")[0].strip("<>").partition(">")[0]
    to = values(answer, "to")[0]
    cseq = int(values(answer, "cseq")[0].split()[0])
    sent = yield caller.request("ACK", target, to, *routes, cseq=cseq), caller.host, caller.port
    find(sent, "ACK")
    sent = yield caller.request("BYE", target, to, *routes), caller.host, caller.port
    sent = yield callee.answer(find(sent, "BYE"), "200 OK"), callee.host, callee.port
    find(sent, "SIP/2.0 200")
