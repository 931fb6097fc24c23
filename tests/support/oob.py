"""Servers that run an Out-of-Box configuration: serpy's own, or one of the two that SER has published.

Of a published file a copy is run in which only these lines are other ones: the database URL and driver, the listen and
multicast addresses, the RPC sockets, the address of the media proxy, and the times of the minute timer and of the
keep-alives, so that a test need not wait for them. The files themselves are not ours and are looked for where
SERPY_OOB_2008 and SERPY_OOB_FINAL say, the latter also where Debian's kamailio package has it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from support.dns import NameServer
from support.patience import PATIENCE_S, free_port, wait_for
from support.phone import Message, Phone
from support.rtpproxy import FakeRtpProxy
from support.running import BIN, CONFIG, DOMAIN, Running
from support.tcp_phone import TcpPhone

from serpy import loader
from serpy.db import schema
from serpy.replication.envelope import Sealer
from serpy.rpc.protocol import RpcFault, call
from serpy.tools import attributes
from serpy.tools.provision import Provision

DEBIAN = Path("/usr/share/doc/kamailio/examples/pkg/sip-router-oob.cfg")
VARIABLES = {"ser-oob": "SERPY_OOB_2008", "sip-router-oob": "SERPY_OOB_FINAL"}
GATEWAY = "127.0.0.2"
PEER = "127.0.0.3"  # in the published files: sems01.iptel.org:5074
PEER_PORT = 5074
GROUP = "224.0.1.75"
BEHIND_NAT = "127.0.0.4"


class AbsentError(Exception):
    """The published file is not on this machine; the text says how to supply it."""


def published(name: str) -> str:
    """The text of the published file *name*. Raises AbsentError."""
    variable = VARIABLES[name]
    given = os.environ.get(variable, "")
    places = [Path(given)] if given else []
    if name == "sip-router-oob" and not given:
        places += [DEBIAN, DEBIAN.with_name(DEBIAN.name + ".gz")]
    for place in places:
        if place.is_file():
            data = place.read_bytes()
            return (gzip.decompress(data) if place.suffix == ".gz" else data).decode("utf-8", "surrogateescape")
    raise AbsentError(f"{name}.cfg is not here: name it with {variable}=PATH")


def adapted(text: str, *, url: str, port: int, group: int, server_id: int, folder: Path, rtp_proxy: str) -> str:
    """*text* with the lines changed that say where things are on this machine."""
    driver = "db_postgres" if url.startswith("postgres") else "db_mysql" if url.startswith("mysql") else "db_sqlite"
    rules = [
        (r'^loadmodule "(?:db_mysql|mysql)"', f'loadmodule "{driver}"'),
        (r'"mysql://[^"]*"', f'"{url}"'),
        (r"^listen *= *(?:udp:)?224\.0\.1\.75.*$", f"listen=udp:224.0.1.75:{group}"),
        (r"^listen *= *127\.0\.0\.1.*$", f"listen=127.0.0.1:{port}"),
        (r"^listen *= *udp:127\.0\.0\.1 *$", ""),
        (r"^server_id *= *0", f"server_id={server_id}"),
        (r"force_send_socket\(udp:127\.0\.0\.1\)", f"force_send_socket(udp:127.0.0.1:{port})"),
        (r"forward_udp\(224\.0\.1\.75, *5060\)", f"forward_udp(224.0.1.75,{group})"),
        (r'"unixs:/tmp/ser_ctl"', f'"unixs:{folder}/ser_ctl"'),
        (r'"fifo:/tmp/ser_fifo"', f'"fifo:{folder}/ser_fifo"'),
        (r'^(modparam\("ctl", "binrpc", )"tcp:[^"]*"', rf'\1"tcp:127.0.0.1:{_free_for_both()}"'),
        (r'"udp:127\.0\.0\.1:22222"', f'"{rtp_proxy}"'),
        (r"ON_1MIN_TIMER,60000,", "ON_1MIN_TIMER,500,"),
        (r'(modparam\("nathelper", "natping_interval", *)15\)', r"\g<1>1)"),
    ]
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def _free_for_both() -> int:
    """A port that is free for UDP and for TCP."""
    while True:
        port = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Oob(Running):
    """A server with the configuration *name*: ``serpy``, ``sip-router-oob`` or ``ser-oob``. Raises AbsentError."""

    def __init__(self, folder: Path, name: str, *, url: str = "", server_id: int = 1, farm: Oob | None = None):
        super().__init__(folder, config=CONFIG, url=url)
        self.name = name
        self.is_own = name == "serpy"
        self.port = _free_for_both()
        self.server_id = server_id
        self.group_port = farm.group_port if farm else self.port
        if farm:
            shutil.copy(farm.folder / "secrets", folder / "secrets")
        self.phones: list[Phone] = []
        self._peer = self._make_peer()
        self.url = self.defines["DB_URL"]
        self.media = FakeRtpProxy()
        self.names = NameServer({("sems01.iptel.org.", "A"): [PEER]})
        if self.is_own:
            assert self._peer is not None
            self.defines |= {
                "PEER": f"{PEER}:{self._peer.port}", "KEEPALIVE": "1", "URI_ATTRS": "yes", "XMLRPC_FROM": "127.0.0.1", "ENUM_SUFFIX": "e164.test.",
                "RTP_PROXY": self.media.address, "REPLICATION": GROUP, "REPLICATION_PORT": str(self.group_port), "SERVER_ID": str(server_id),
                "RELOAD_TIMER": "ON_1MIN_TIMER=ON_1MIN_TIMER,500,slow,enable",
            }  # fmt: skip
            self.config = folder / "serpy.conf"
            self.config.write_text(f'{self._preamble}include_file "{CONFIG}"\n')
        if not self.is_own:
            self.config = folder / f"{name}.cfg"
            text = adapted(
                published(name), url=self.defines["DB_URL"], port=self.port, group=self.group_port,
                server_id=server_id, folder=folder, rtp_proxy=self.media.address,
            )  # fmt: skip
            self.config.write_text(self._preamble + text, encoding="utf-8", errors="surrogateescape")
            self.defines = {"WITH_XMLRPC": ""}

    @property
    def _preamble(self) -> str:
        """Settings of the place: a name server in the stead of /etc/resolv.conf's, and we hear our own multicast."""
        return f'dns_servers = "{self.names.text}"\nmcast_loopback = yes\n'

    # what the files do differently

    @property
    def fixes_contacts_of_answers(self) -> bool:
        """sip-router-oob.cfg tests a flag that it never sets, and so leaves private Contacts in answers alone."""
        return self.name != "sip-router-oob"

    def assert_redirected(self, answer: Message, target: str, callee: Phone) -> None:
        """The 302 names *target*. In the older file it names the callee: attr_destination leaves the Request-URI."""
        expected = callee.contact if self.name == "ser-oob" else target
        assert answer.get("Contact").split(";")[0].strip("<>") == expected

    # phones and provisioning

    def phone(self, user: str, **options) -> Phone:
        return self._kept(super().phone(user, **options))

    def nated_phone(self, user: str) -> NatedPhone:
        """A phone of *user* that believes in its private address."""
        return self._kept(NatedPhone(self.address, user, DOMAIN, user, host=BEHIND_NAT))

    def nated_tcp_phone(self, user: str) -> NatedTcpPhone:
        """Such a phone that keeps one TCP connection."""
        return self._kept(NatedTcpPhone(self.address, user, DOMAIN, user))

    def gateway(self) -> Gateway:
        """The gateway to the telephone network; its ``attributes`` are what the server must know of it."""
        return self._kept(Gateway(self.address, "gateway", host=GATEWAY))

    def _make_peer(self) -> Phone | None:
        try:
            return Phone(self.address, "peer", host=PEER, port=0 if self.is_own else PEER_PORT)
        except OSError:
            return None

    @contextlib.contextmanager
    def neighbour(self) -> Iterator[Neighbour]:
        """Another server of the farm; replication is on meanwhile."""
        neighbour = Neighbour(self)
        try:
            with self.attrs("global", replicate="1"):
                yield neighbour
        finally:
            neighbour.close()

    def peer(self) -> Phone | None:
        """The peer of SITE_SPECIFIC; None when another test has the port that the published files want."""
        return self._peer

    def _kept(self, phone):
        self.phones.append(phone)
        return phone

    def close_phones(self) -> None:
        """Remove the bindings of all phones that have registered, and close them."""
        for phone in self.phones:
            if phone.is_registered:
                with contextlib.suppress(RpcFault):
                    self.rpc("usrloc.delete_uid", "location", f"{phone.user}@{DOMAIN}")
            phone.close()
        self.phones.clear()

    @contextlib.contextmanager
    def attrs(self, owner: str, **values: str) -> Iterator[None]:
        """Attributes that *owner* has for a while."""
        if self.is_own is False:
            values.pop("gw_port", None)
        self._set(owner, [f"{name}={value}" for name, value in values.items()])
        try:
            yield
        finally:
            self._set(owner, [f"{name}=" for name in values])

    def _set(self, owner: str, assignments: list[str]) -> None:
        cache = self.provision(lambda provision: attributes.attrs_set(provision, owner, assignments))
        self.rpc("cache.bump", cache)

    def rpc(self, method: str, *arguments: object):
        """The result of an RPC, as JSON gives it."""
        return call(str(self.folder / "ctl"), method, list(arguments), 10.0)

    def http(self, body: str) -> str:
        """What a POST of *body* to the SIP port over TCP is answered."""
        request = (
            f"POST /RPC2 HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}"
        )
        with socket.create_connection(self.address, 5) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return answer.read().decode()

    def prepare(self, *users: str) -> Oob:
        """As serpyctl would, in this process: three servers are started in a row."""
        database = loader.open_database(self.url, create=True)
        schema.create(database)
        provision = Provision(database)
        provision.domain_add(DOMAIN)
        for user in users:
            provision.user_add(f"{user}@{DOMAIN}", user)
        database.close()
        return self

    def contacts(self, user: str) -> list[dict[str, object]]:
        """What is registered for *user*."""
        try:
            return self.rpc("usrloc.show_contacts", "location", f"{user}@{DOMAIN}")
        except RpcFault:
            return []

    def provision(self, action):
        """Change the database behind the server's back."""
        database = loader.open_database(self.url)
        try:
            return action(Provision(database))
        finally:
            database.close()

    def select(self, table: str, columns: tuple[str, ...], where: dict[str, object]) -> list[tuple[object, ...]]:
        """Rows of the server's database."""
        return self.provision(lambda provision: provision.database.select(table, columns, where))

    def keepalive(self, phone: Phone, timeout: float = PATIENCE_S) -> bool:
        """True when *phone* gets a keep-alive in time: an OPTIONS, or four bytes."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = phone.receive(left)
            if message is not None and (message.startswith("OPTIONS ") or message == "\r\n\r\n"):
                return True
        return False

    # process

    def start(self, *extra: str) -> Oob:
        super().start(*extra)
        wait_for(self._takes_rpc)
        return self

    def _takes_rpc(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.rpc("core.uptime"))
        return False

    def stop(self) -> int:
        self.names.stop()
        self.media.close()
        if self._peer is not None:
            self._peer.close()
        return super().stop()

    def command(self, *extra: str) -> list[str]:
        if self.is_own:
            listen = ("-l", f"tcp:127.0.0.1:{self.port}", "-l", f"udp:{GROUP}:{self.group_port}")
            return super().command("-N", "1", *listen, *extra)
        # no -l: the file's own listen lines count
        return [str(BIN / "serpy"), "-D", "-D", "-E", "-m", "64", "-n", "2", "-N", "1", *self.options(), *extra]


class Neighbour:
    """Another server of the farm of *oob*, as far as it can be heard on the group."""

    def __init__(self, oob: Oob):
        self.group = (GROUP, oob.group_port)
        lines = (oob.folder / "secrets").read_text().splitlines()
        key = dict(line.split("=", 1) for line in lines)["REPLICATION_SECRET"]
        self.sealer = Sealer(key.encode(), f"{GROUP}:{oob.group_port}", 7, int(time.time() * 1000))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.group)
        loopback = socket.inet_aton("127.0.0.1")
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + loopback)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)

    def close(self) -> None:
        self.socket.close()
        self.sender.close()

    def heard(self, timeout: float = PATIENCE_S) -> Message:
        """The next REGISTER on the group that the farm's key has signed."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            data = self.socket.recv(65536)
            if data.startswith(b"REGISTER "):
                self.sealer.open_register(data)
                return Message(data.decode())
        raise AssertionError("no REGISTER on the group")

    def tell(self, text: str, *, is_signed: bool = True) -> None:
        """Multicast a REGISTER."""
        data = text.encode()
        data = self.sealer.seal_register(data, int(time.time() * 1000)) if is_signed else data
        self.sender.sendto(data, self.group)


class Gateway(Phone):
    """The gateway to the telephone network."""

    @property
    def attributes(self) -> dict[str, str]:
        """What the server must know of it. The published files take the port from the Request-URI."""
        return {"gw_ip": self.host, "gw_port": str(self.port)}


class NatedPhone(Phone):
    """A phone that believes in its private address: Via and Contact say 192.168.1.10:5060."""

    private = "192.168.1.10:5060"

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{self.private}"

    def via(self, branch: str = "") -> str:
        return super().via(branch).replace(f"{self.host}:{self.port}", self.private).removesuffix(";rport")


class NatedTcpPhone(TcpPhone):
    """The same over TCP."""

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{NatedPhone.private};transport=tcp"

    def via(self, branch: str = "") -> str:
        return super().via(branch).replace(f"{self.host}:{self.port}", NatedPhone.private).removesuffix(";rport")
