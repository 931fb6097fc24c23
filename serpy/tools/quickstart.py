"""``serpyctl quickstart`` (what ``make run`` calls): from nothing to a running server with two accounts.

Everything lives in the run directory: database, secrets and the accounts with their random passwords, so a second
start keeps accounts and bindings. Ends by becoming ``serpy`` in the foreground.

Runs in: serpyctl. Locks: none.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from serpy import loader
from serpy.db import schema
from serpy.errors import UsageError
from serpy.run_dir import make_folder
from serpy.tools.provision import Provision

DOMAIN = "serpy.local"
USERS = ("alice", "bob")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that looks like something else on a phone's display
_LENGTH = 12


def run(file: str, run_dir: str, defines: Sequence[str], listen: Sequence[str]) -> None:
    """Prepare *run_dir* and replace this process by the server. Raises ConfigError, BackendError, OSError."""
    folder = Path(run_dir).resolve()
    make_folder(folder, 0o700)
    words = list(defines)
    if not any(word.startswith("DB_URL=") for word in words):
        words.append(f"DB_URL=sqlite:///{folder}/serpy.db")
    host = primary_address()
    port = _free_port(host)
    addresses = list(listen) or [f"udp:{one}:{port}" for one in dict.fromkeys((host, "127.0.0.1"))]
    accounts = prepare(file, folder, words, host)
    _explain(_host_of(addresses[0]) or host, _port_of(addresses[0]), accounts, [*_options(file, folder, words)])
    program = Path(sys.argv[0]).resolve().with_name("serpy")
    listening = [word for address in addresses for word in ("-l", address)]
    sys.stdout.flush()
    os.execv(program, [str(program), "-D", "-D", "-E", *_options(file, folder, words), *listening])  # noqa: S606


def prepare(file: str, folder: Path, defines: Sequence[str], host: str) -> dict[str, str]:
    """Make the database, the domain under all names of this machine and the accounts; return user → password."""
    database = loader.open_database(
        loader.database_url(file, dict(loader.parse_define(word) for word in defines)), create=True
    )
    schema.create(database)
    provision = Provision(database)
    provision.domain_names(DOMAIN, [DOMAIN, host, "127.0.0.1", "localhost", socket.gethostname().lower()])
    accounts = _accounts(folder / "accounts")
    for user, password in accounts.items():
        try:
            provision.user_add(f"{user}@{DOMAIN}", password)
        except UsageError as exc:
            if "exists" not in str(exc):
                raise
    database.close()
    return accounts


def primary_address() -> str:
    """The address that other machines reach us by, 127.0.0.1 when there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation address: connecting a datagram socket sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _accounts(path: Path) -> dict[str, str]:
    """The kept accounts, made with random passwords the first time; the file is readable by its owner only."""
    if not path.exists():
        made = [(user, "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))) for user in USERS]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("".join(f"{user} {password}\n" for user, password in made))
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _free_port(host: str) -> int:
    """5060, or the first of 5070, 5080 … that is free on *host* and on loopback."""
    ports: list[int] = [5060, *range(5070, 5200, 10)]
    for port in ports:
        if all(_is_free(one, port) for one in (host, "127.0.0.1")):
            return port
    return 5060  # the server will say who has it


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _host_of(address: str) -> str:
    """The host of an IPv4 listen address, "" when it names no single one."""
    rest = address.partition(":")[2] if address[:4] in ("udp:", "tcp:") else address
    host = rest.partition(":")[0]
    return "" if host in ("", "0.0.0.0", "*") or "[" in rest else host  # noqa: S104 - compared, not bound


def _port_of(address: str) -> int:
    port = address.rsplit(":", 1)[-1]
    return int(port) if port.isascii() and port.isdigit() else 5060


def _options(file: str, folder: Path, defines: Sequence[str]) -> list[str]:
    return ["-f", file, "-Y", str(folder), *(word for define in defines for word in ("-A", define))]


def examples(server: str, accounts: dict[str, str]) -> str:
    """What to type to ask *server* (host, or host:port) whether it is there, and to register. Others want to know who asks:
    sipsak, which calls itself sipsak@HOST in all but a few of its requests, is nobody here.
    """
    last = list(accounts)[-1]
    return f"""    sipsak -v -s sip:{server}
    sipsak -i -U -C sip:{last}@127.0.0.1:7001 -s sip:{last}@{server} -u {last} -a {accounts[last]} -x 600"""


def _explain(host: str, port: int, accounts: dict[str, str], options: Sequence[str]) -> None:
    width = max(len(user) for user in accounts)
    phones = "\n".join(f"    user {user:{width}}   password {password}" for user, password in accounts.items())
    names = list(accounts)
    server = f"{host}:{port}" if port != 5060 else host
    ctl = f"{Path(sys.argv[0]).resolve()} {' '.join(options)}"
    print(f"""
serpy is starting. Type this into two phones (transport UDP, domain or server {server}):

    server {host}   port {port}
{phones}

Then call sip:{names[-1]}@{server} from {names[0]}'s phone. Without a phone, from another terminal:

{examples(server, accounts)}

What to try next:

    {ctl} usrloc show
    {ctl} user add carol@{DOMAIN}
    {ctl} attrs set {names[-1]}@{DOMAIN} fwd_noanswer_target=sip:{names[0]}@{DOMAIN}
    {ctl} ps

What the routing script {options[1]} does, and what else can be switched on, is in docs/oob.md. Accounts and
database are in {options[3]}. Ctrl-C stops the server.
""")
