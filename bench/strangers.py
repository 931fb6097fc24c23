"""What strangers do to honest phones: floods of every kind, and guessing of passwords, with phones and calls beside them.

    python bench/strangers.py [--seconds 30] [--scale 1.0] [--only invite,garbage] [--guesses 10000] [--no-floods]

Run it with the Python of an installed serpy. For each kind of flood a fresh server of etc/serpy.conf on loopback: 50 phones,
half of them behind the attacker's own address, register and call while the flood goes on. Printed: what was answered within 200
ms and at all, octets that the attacker got for each of his, memory before, at most and after, when all was as before again, rows
and log. Then passwords are guessed. --scale lowers all rates, for a small machine. Every part ends by itself; exit 1 when
less than 99 % of the honest were answered anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import secrets
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.honest import DOMAIN, HonestTown, digest
from support.phone import Message
from support.running import Running

ATTACKER = "127.0.0.66"
PHONES = 50
AWAY = "127.0.0.77"
Server = tuple[str, int]


def request(
    method: str, uri: str, host: str, *, user: str = "stranger", domain: str = "example.org", extra: str = ""
) -> bytes:
    return (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {host};rport;branch=z9hG4bK{secrets.token_hex(6)}\r\n"
        f"From: <sip:{user}@{domain}>;tag={secrets.token_hex(4)}\r\nTo: <{uri}>\r\nCall-ID: {secrets.token_hex(8)}\r\n"
        f"CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContact: <sip:{user}@{host}>\r\n{extra}Content-Length: 0\r\n\r\n"
    ).encode()


# --- floods: each makes the next datagram of a source


def invite(host: str, number: int) -> bytes:
    return request("INVITE", f"sip:u{number % PHONES}@{DOMAIN}", host)


def register(host: str, number: int) -> bytes:
    made_up = {"realm": DOMAIN, "nonce": secrets.token_hex(14)}
    user = f"u{number % PHONES}"
    line = digest(user, "guess", made_up, "REGISTER", f"sip:{DOMAIN}")
    return request("REGISTER", f"sip:{DOMAIN}", host, user=user, domain=DOMAIN, extra=f"Authorization: {line}\r\n")


def options(host: str, _number: int) -> bytes:
    return request("OPTIONS", f"sip:{DOMAIN}", host)


def response(host: str, number: int) -> bytes:
    return (
        f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
        f"Via: SIP/2.0/UDP {host}:9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>;tag=2\r\n"
        f"Call-ID: {secrets.token_hex(8)}\r\nCSeq: {number} INVITE\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def garbage(_host: str, number: int) -> bytes:
    if number % 2:
        return random.randbytes(400)
    return b"INVITE sip:x SIP/2.0\r\nVia: \x00\r\nCSeq: no\r\n" + random.randbytes(300)


class Tally:
    """What an attacker did, and got."""

    def __init__(self) -> None:
        self.sent = 0
        self.octets_out = 0  # of the attacker
        self.octets_in = 0


def datagrams(make: Callable[[str, int], bytes], sources: int) -> Callable[[Server, float, float], Tally]:
    """A flood over UDP from so many addresses."""

    def flood(server: Server, rate: float, seconds: float) -> Tally:
        tally = Tally()
        hosts = (
            [ATTACKER]
            if sources == 1
            else [f"127.{9 + n // 60000}.{n // 250 % 240}.{n % 250 + 1}" for n in range(sources)]
        )
        sockets = []
        for host in hosts:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, 0))
            sock.setblocking(False)
            sockets.append((sock, f"{host}:{sock.getsockname()[1]}"))

        def step(number: int) -> None:
            sock, name = sockets[number % len(sockets)]
            data = make(name, number)
            try:
                sock.sendto(data, server)
            except OSError:
                return
            tally.sent += 1
            tally.octets_out += len(data)
            read(sock, tally)

        paced(step, rate, seconds)
        time.sleep(1.0)
        for sock, _ in sockets:
            read(sock, tally)
            sock.close()
        return tally

    return flood


def read(sock: socket.socket, tally: Tally) -> None:
    while True:
        try:
            tally.octets_in += len(sock.recv(65536))
        except OSError:
            return


def paced(step: Callable[[int], None], rate: float, seconds: float) -> None:
    """*step* so often a second, in small bursts; a machine that is too slow does less."""
    start = time.monotonic()
    number = 0
    while (now := time.monotonic() - start) < seconds:
        while number < now * rate and time.monotonic() - start < seconds:
            step(number)
            number += 1
        time.sleep(0.002)


def connects(server: Server, rate: float, seconds: float) -> Tally:
    """TCP connections that say nothing; 2,000 of them stay open."""
    tally, kept = Tally(), []

    def step(_number: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.bind((ATTACKER, 0))
            sock.connect(server)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return
        tally.sent += 1
        kept.append(sock)
        if len(kept) > 2000:
            kept.pop(0).close()

    paced(step, rate, seconds)
    for sock in kept:
        sock.close()
    return tally


def slow_loris(server: Server, rate: float, seconds: float) -> Tally:
    """200 connections that send a request byte by byte."""
    tally, text = Tally(), options(ATTACKER, 0)
    sockets = [open_stream(server) for _ in range(200)]

    def step(number: int) -> None:
        at = number % len(sockets)
        sock = sockets[at]
        try:
            tally.octets_out += sock.send(text[number // len(sockets) % (len(text) - 4) :][:1])
        except OSError:
            sock.close()
            sockets[at] = open_stream(server)
        tally.sent += 1

    paced(step, min(rate, 1000.0), seconds)
    for sock in sockets:
        sock.close()
    return tally


def pipelining(server: Server, rate: float, seconds: float) -> Tally:
    """Requests on four connections without waiting for answers, nor reading them until the end."""
    tally = Tally()
    sockets = [open_stream(server) for _ in range(4)]

    def step(number: int) -> None:
        at = number % len(sockets)
        data = options(ATTACKER, number).replace(b"/UDP", b"/TCP")
        try:
            tally.octets_out += sockets[at].send(data)
            tally.sent += 1
        except BlockingIOError:
            pass
        except OSError:
            sockets[at].close()
            sockets[at] = open_stream(server)

    paced(step, rate, seconds)
    for sock in sockets:
        read(sock, tally)
        sock.close()
    return tally


def open_stream(server: Server) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind((ATTACKER, 0))
    sock.settimeout(0.2)
    with contextlib.suppress(OSError):
        sock.connect(server)
    sock.setblocking(False)
    return sock


KINDS: dict[str, tuple[Callable[[Server, float, float], Tally], float]] = {
    "invite": (datagrams(invite, 1), 5000),
    "invite-spoofed": (datagrams(invite, 900), 5000),
    "register": (datagrams(register, 1), 5000),
    "register-spoofed": (datagrams(register, 900), 5000),
    "options": (datagrams(options, 1), 5000),
    "responses": (datagrams(response, 1), 5000),
    "garbage": (datagrams(garbage, 1), 5000),
    "connects": (connects, 2000),
    "slow-loris": (slow_loris, 1000),
    "pipelining": (pipelining, 2000),
}


# --- measuring


def honest(server: Server, seconds: float, registrations: float, calls: float, pipe) -> None:
    """The honest phones, in a process of their own: (kind, host) → [(started, seconds or None)]."""
    town = HonestTown(server, [f"u{n}" for n in range(PHONES)], [AWAY, ATTACKER])
    town.register_all()
    pipe.send("ready")
    town.run(seconds, registrations, calls)
    pipe.send((town.waited, town.failed))
    town.close()


def memory(server: Running) -> int:
    """kB resident in all processes, what they share counted once."""
    total = 0
    for pid in server.children().values():
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total


def rows(folder: Path) -> int:
    with sqlite3.connect(folder / "serpy.db") as database:
        return sum(database.execute(f"select count(*) from {table}").fetchone()[0] for table in ("acc", "missed_calls"))


def is_answered(server: Server, host: str) -> bool:
    """True when a stranger at *host* gets an answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(0.5)
        sock.sendto(options(f"{host}:{sock.getsockname()[1]}", 0), server)
        try:
            return Message(sock.recv(65536).decode("utf-8", "replace")).status == 200
        except OSError:
            return False


def start(folder: Path, users: int) -> Running:
    server = Running(folder, defines={"TRUST_SIZE": "office"}).prepare()
    listing = folder / "users"
    listing.write_text("".join(f"u{number}@{DOMAIN} u{number}\n" for number in range(users)))
    server.ctl("user", "import", str(listing))
    return server.start("-l", f"tcp:127.0.0.1:{server.port}")


def flood(kind: str, options_: argparse.Namespace) -> bool:
    attack, rate = KINDS[kind]
    seconds, scale = options_.seconds, options_.scale
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start(folder, PHONES)
        try:
            ours, theirs = multiprocessing.Pipe()
            arguments = (server.address, seconds + 2, 50 * scale, 20 * scale, theirs)
            phones = multiprocessing.Process(target=honest, args=arguments)
            phones.start()
            ours.recv()
            before, log_before, rows_before = memory(server), server.log.stat().st_size, rows(folder)
            results = multiprocessing.Queue()
            attacker = multiprocessing.Process(
                target=lambda: results.put(vars(attack(server.address, rate * scale, seconds)))
            )
            attacker.start()
            peak = before
            while attacker.is_alive() and results.empty():
                time.sleep(0.5)
                peak = max(peak, memory(server))
            tally = results.get(timeout=30)
            attacker.join(10)
            ended = time.monotonic()
            while not is_answered(server.address, ATTACKER) and time.monotonic() < ended + 120:
                time.sleep(1.0)
            recovered = time.monotonic() - ended
            waited, failed = ours.recv()
            phones.join(30)
            calls = sum(len(each) for (what, _), each in waited.items() if what == "call")
            strangers_rows = rows(folder) - rows_before - 2 * calls
            print(
                f"{kind:17} {tally['sent'] / seconds:6.0f}/s  out/in {tally['octets_in'] / max(1, tally['octets_out']):4.2f}  "
                f"memory {before >> 10}/{peak >> 10}/{memory(server) >> 10} MB  back after {recovered:3.0f} s  "
                f"rows {max(0, strangers_rows)}  log {server.log.stat().st_size - log_before} octets"
            )
            return verdict(waited, failed)
        finally:
            server.stop()


def verdict(waited: dict, failed: dict) -> bool:
    good = True
    for key in sorted({*waited, *failed}):
        times = sorted(each[1] for each in waited.get(key, []))
        lost = [each[1] for each in failed.get(key, [])]
        share = len(times) / (len(times) + len(lost))
        p99 = times[int(len(times) * 0.99)] if times else float("inf")
        where = "behind the attacker" if key[1] == ATTACKER else "elsewhere"
        print(
            f"    {key[0]:9} {where:20} {share:6.1%} of {len(times) + len(lost):4} answered, p99 {p99 * 1000:5.0f} ms"
            + (f"  {sorted(set(lost))}" if lost else "")
        )
        good = good and share >= 0.99
    return good


# --- passwords


def guess(server: Server, addresses: int, users: int, guesses: int, seconds: float, pipe) -> None:
    """REGISTERs with wrong passwords, each address with a challenge of its own."""
    sockets = []
    for number in range(addresses):
        host = f"127.{20 + number // 250}.{number % 250}.9"  # a /24 each
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.setblocking(False)
        sockets.append([sock, f"{host}:{sock.getsockname()[1]}", {}, 0])
    answered = 0

    def step(number: int) -> None:
        nonlocal answered
        entry = sockets[number % addresses]
        sock, name, parts, _ = entry
        user = f"u{number % users}"
        if not parts:
            sock.sendto(request("REGISTER", f"sip:{DOMAIN}", name, user=user, domain=DOMAIN), server)
            for _ in range(30):
                time.sleep(0.01)
                if take(entry):
                    break
            parts = entry[2]
        entry[3] += 1
        line = digest(
            user, f"guess{number}", parts or {"realm": DOMAIN, "nonce": "none"}, "REGISTER", f"sip:{DOMAIN}", entry[3]
        )
        data = request("REGISTER", f"sip:{DOMAIN}", name, user=user, domain=DOMAIN, extra=f"Authorization: {line}\r\n")
        sock.sendto(data, server)
        answered += take(entry)

    paced(step, guesses / seconds, seconds)
    time.sleep(0.5)
    pipe.send(answered + sum(take(entry) for entry in sockets))


def take(entry: list) -> int:
    """Read what came; a challenge in it is answered with the next guess."""
    count = 0
    while True:
        try:
            message = Message(entry[0].recv(65536).decode("utf-8", "replace"))
        except OSError:
            return count
        count += 1
        words = message.get("WWW-Authenticate").split('"')
        if len(words) > 4:
            entry[2] = {"realm": words[1], "nonce": words[3]}
            entry[3] = 0


def guessing(addresses: int, users: int, options_: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start(folder, max(PHONES, users))
        try:
            ours, theirs = multiprocessing.Pipe()
            phones = multiprocessing.Process(target=honest, args=(server.address, options_.seconds + 2, 5, 2, theirs))
            phones.start()
            ours.recv()
            told, tell = multiprocessing.Pipe()
            count = int(options_.guesses * options_.scale)
            args = (server.address, addresses, users, count, options_.seconds, tell)
            attacker = multiprocessing.Process(target=guess, args=args)
            attacker.start()
            answered = told.recv()
            attacker.join(10)
            stats = server.json("stats")
            looked = stats.get("trust.events_total{reason=wrong-password}", 0)
            held = server.json("ban", "list")
            lines = sum("silent" in line or "banned" in line for line in server.log.read_text().split("\n"))
            print(
                f"{count} guesses from {addresses} address(es) at {users} user(s): {looked} looked at, {answered} answers; "
                f"ban list {len(held)}, log lines {lines}"
            )
            if held:
                print(f"    for example: {held[0]}")
            waited, failed = ours.recv()
            phones.join(30)
            return verdict(waited, failed)
        finally:
            server.stop()


def main() -> int:
    multiprocessing.set_start_method("fork")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--scale", type=float, default=1.0, help="of all rates")
    parser.add_argument("--only", default="", help=f"kinds, with commas: {', '.join(KINDS)}")
    parser.add_argument("--guesses", type=int, default=10_000, help="0: none")
    parser.add_argument("--no-floods", action="store_true")
    options_ = parser.parse_args()
    os.nice(5)
    good = True
    for kind in [] if options_.no_floods else (options_.only.split(",") if options_.only else list(KINDS)):
        good = flood(kind, options_) and good
    if options_.guesses:
        for addresses, users in ((1, 1), (1, 1000), (1000, 1), (1000, 1000)):
            good = guessing(addresses, users, options_) and good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
