"""A server in the street and phones in two houses with equal private networks, each behind its own NAT."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from pathlib import Path

from support.netns import Host, Lab
from support.phone import Message, Phone
from support.running import DOMAIN, Running, wait_for

SERVER = "198.51.100.1"
ROUTERS = ("198.51.100.11", "198.51.100.12")
INSIDE = "192.168.1"
PING_BRANCH = "z9hG4bK-GnIp-"


class TownServer(Running):
    """serpy in a namespace, on port 5060 of *host*."""

    def __init__(self, folder: Path, host: Host, **options):
        super().__init__(folder, **options)
        self.host = host
        self.port = 5060

    @property
    def address(self) -> tuple[str, int]:
        return (self.host.address, self.port)

    def command(self, *extra: str) -> list[str]:
        words = super().command(*extra)
        at = words.index("-l")
        words[at + 1] = f"udp:{self.host.address}:{self.port}"
        return words

    def start(self, *extra: str) -> TownServer:
        with self.log.open("ab") as log:
            self.process = self.host.popen(*self.command(*extra), stdout=log, stderr=log, start_new_session=True)
        wait_for(self.is_answering)
        return self

    def is_answering(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        with self.host.inside():
            probe = Phone(self.address, host=self.host.address)
        with contextlib.closing(probe):
            probe.send(probe.request("OPTIONS", f"sip:{self.host.address}:{self.port}"))
            return probe.receive(0.3) is not None


class HousePhone(Phone):
    """A phone at *host* that does not know it is behind a NAT. It answers keep-alives and counts them."""

    def __init__(self, host: Host, user: str, *, port: int = 5060, domain: str = DOMAIN):
        with host.inside():
            super().__init__((SERVER, 5060), user, domain, user, host=host.address, port=port)
        self.pings = 0

    def _read(self, timeout: float) -> Message | None:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0 or timeout == 0:
            message = super()._read(max(0.0, left))
            if message is None:
                return None
            if message == "\r\n\r\n":
                self.pings += 1
            elif message.method == "OPTIONS" and PING_BRANCH in message.get("v"):
                self.pings += 1
                self.answer_ping(message)
            else:
                return message
        return None

    def answer_ping(self, ping: Message) -> None:
        """200 to a request with compact header names."""
        lines = [
            "SIP/2.0 200 OK", f"v:{ping.get('v')}", f"f:{ping.get('f')}", f"t:{ping.get('t')};tag={self.tag}",
            f"i:{ping.get('i')}", f"CSeq:{ping.get('CSeq')}", "l:0", "", "",
        ]  # fmt: skip
        self.send("\r\n".join(lines))

    def listen_for(self, seconds: float) -> None:
        """Do nothing but answer keep-alives; what else comes is kept."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._read(left)
            if message is not None:
                self.pending.append(message)

    def in_dialog_as_callee(self, method: str, invite: Message, **options) -> str:
        """A request of the callee inside the dialog that *invite* made."""
        target = invite.get("Contact").split("<")[1].split(">")[0]
        routes = [route.strip() for line in invite.all("Record-Route") for route in line.split(",")]
        return self.request(
            method, target, to=invite.get("From"), from_=self.aor, call_id=invite.get("Call-ID"),
            headers=tuple(f"Route: {route}" for route in routes), **options,
        )  # fmt: skip


class Town:
    """The whole: ``with Town(lab) as town``; phones are made with ``phone(house, user)``."""

    def __init__(self, lab: Lab, *, udp_timeout: int):
        self.lab = lab
        street = lab.switch("street")
        self.server = lab.host("server", street, f"{SERVER}/24")
        self.routers: list[Host] = []
        self.houses: list[Host] = []
        for number, outside in enumerate(ROUTERS, 1):
            home = lab.switch(f"home{number}")
            self.routers.append(
                lab.nat(f"router{number}", street, f"{outside}/24", home, f"{INSIDE}.1/24", udp_timeout=udp_timeout)
            )
            self.houses.append(lab.host(f"house{number}", home, f"{INSIDE}.10/24", gateway=f"{INSIDE}.1"))
        self.phones: list[HousePhone] = []

    def phone(self, house: int, user: str, port: int = 5060) -> HousePhone:
        made = HousePhone(self.houses[house], user, port=port)
        self.phones.append(made)
        return made

    def close(self) -> None:
        for phone in self.phones:
            phone.close()
        self.phones.clear()


class Probe:
    """One datagram out of a house to a port of the server, and later one back: is the NAT's mapping still there?"""

    def __init__(self, server: Host, house: Host):
        with server.inside():
            self._outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._outside.bind((server.address, 0))
        with house.inside():
            self._inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._inside.bind((house.address, 0))
        for sock in (self._outside, self._inside):
            sock.settimeout(0.3)
        self._inside.sendto(b"out", self._outside.getsockname())
        self._way_back = self._outside.recvfrom(100)[1]
        assert self._way_back[0] in ROUTERS

    def is_open(self) -> bool:
        """True when a datagram from the server gets in now. Keeps the mapping alive when it does."""
        text = secrets.token_hex(4).encode()
        self._outside.sendto(text, self._way_back)
        try:
            return self._inside.recv(100) == text
        except TimeoutError:
            return False

    def close(self) -> None:
        self._outside.close()
        self._inside.close()
