"""Do honest phones on TCP notice who misuses it? Floods from one address, phones beside them, some behind the same address.

    python bench/streams.py [--seconds 10] [--flood connects,silent,…] [--rate 2000]

Run it with the Python of an installed serpy, with ``ulimit -n 8192``. Each phone opens a connection, asks OPTIONS, and
closes it, ten a second from two addresses: that of the attacker and another one. Prints for each flood how many were
answered, median and p99, the connections, and what the server grew by. Exits with 1 when a phone from another address
was answered in more than 200 ms at p99, or less than 99 % of them were.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from servers import pss_kb
from support.running import Running

ATTACKER = "127.0.9.1"
PHONES = {"another address": "127.0.8.1", "same address": ATTACKER}
TIMEOUT_S = 4.0
HELD_MAX = 3000  # connections that an attacker keeps open
Address = tuple[str, int]


def options(server: Address, number: int) -> bytes:
    """An OPTIONS to the server itself."""
    return (
        f"OPTIONS sip:{server[0]}:{server[1]} SIP/2.0\r\nVia: SIP/2.0/TCP {ATTACKER};branch=z9hG4bK{number:x}\r\n"
        f"From: <sip:a@b.example>;tag=1\r\nTo: <sip:a@b.example>\r\nCall-ID: {number:x}\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def opened(server: Address, source: str = ATTACKER) -> socket.socket:
    return socket.create_connection(server, TIMEOUT_S, (source, 0))


def connect(server: Address, seconds: float, rate: int, text: bytes, *, hold: bool) -> None:
    """Open *rate* connections a second, send *text* on each, keep the last HELD_MAX of them open or close them at once."""
    held: list[socket.socket] = []
    begun = time.monotonic()
    count = 0
    while (now := time.monotonic()) < begun + seconds:
        if count > (now - begun) * rate:
            time.sleep(0.001)
            continue
        count += 1
        with contextlib.suppress(OSError):
            sock = opened(server)
            if text:
                sock.send(text)
            if hold:
                held.append(sock)
            else:
                sock.close()
        if len(held) > HELD_MAX:
            held.pop(0).close()


def talk(server: Address, seconds: float, *, reads: bool) -> None:
    """Three connections that send without a pause."""
    socks = [opened(server) for _ in range(3)]
    data = b"".join(options(server, number) for number in range(4000))
    sent = [0] * len(socks)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number, sock in enumerate(socks):
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sent[number] = (sent[number] + sock.send(data[sent[number] : sent[number] + 65536])) % len(data)
            with contextlib.suppress(OSError):
                if reads:
                    sock.recv(1 << 20)
        time.sleep(0.001)


def trickle(server: Address, seconds: float) -> None:
    """A thousand connections, on each a byte of a message now and then."""
    socks = []
    text = options(server, 1)
    end = time.monotonic() + seconds
    at = 0
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if len(socks) < 1000:
                socks.extend(opened(server) for _ in range(50))
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(text[at : at + 1])
        at = (at + 1) % (len(text) - 4)
        time.sleep(0.2)


FLOODS = ("none", "connects", "silent", "idle", "garbage", "talkers", "deaf", "trickle")


def misuse(name: str, server: Address, seconds: float, rate: int) -> None:
    """The flood *name*, in a process of its own."""
    texts = {"connects": b"", "silent": b"", "idle": options(server, 7), "garbage": b"no SIP at all\r\n"}
    if name in texts:
        connect(server, seconds, rate, texts[name], hold=name != "connects")
    elif name == "trickle":
        trickle(server, seconds)
    elif name != "none":
        talk(server, seconds, reads=name == "talkers")


def ask(server: Address, source: str, number: int) -> float:
    """Seconds until one phone has its answer, TIMEOUT_S when it gets none."""
    begun = time.monotonic()
    try:
        with opened(server, source) as sock:
            sock.sendall(options(server, number))
            answered = sock.recv(65536).startswith(b"SIP/2.0 200")
    except OSError:
        answered = False
    return time.monotonic() - begun if answered else TIMEOUT_S


def watch(server: Address, seconds: float, source: str, found: object) -> None:
    """Ten phones a second from *source*."""
    times = []
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        times.append(ask(server, source, time.monotonic_ns()))
        time.sleep(max(0.0, now + 0.1 - time.monotonic()))
    found.put((source, times))


def measure(running: Running, name: str, seconds: float, rate: int) -> bool:
    """One flood; True when the phones of another address hardly noticed."""
    before = pss_kb(running.process.pid)
    info = running.json("rpc", "core.tcp_info")
    found = multiprocessing.Queue()
    server = running.address
    flood = multiprocessing.Process(target=misuse, args=(name, server, seconds + 2.0, rate))
    flood.start()
    time.sleep(1.0)
    watchers = [
        multiprocessing.Process(target=watch, args=(server, seconds, source, found)) for source in PHONES.values()
    ]
    for each in watchers:
        each.start()
    time.sleep(seconds / 2)
    open_now = running.json("rpc", "core.tcp_info")["opened_connections"]
    times = dict(found.get() for _ in watchers)
    grown = pss_kb(running.process.pid) - before
    flood.join()
    good = True
    for title, source in PHONES.items():
        late = sorted(times[source])
        share = sum(one < TIMEOUT_S for one in late) / len(late)
        p99 = late[min(len(late) - 1, int(len(late) * 0.99))]
        print(
            f"{name:9} {title:16} answered {share:6.1%}  median {statistics.median(late) * 1000:6.1f} ms  p99 {p99 * 1000:7.1f} ms"
        )
        good = good and (source == ATTACKER or (share >= 0.99 and p99 < 0.2))
    after = running.json("rpc", "core.tcp_info")
    counted = {
        key: after[key] - info[key]
        for key in ("accepted", "crowded", "made_room", "turned_away", "malformed", "paused")
    }
    print(f"{name:9} connections {open_now}, grown by {grown} kB, {counted}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--flood", default=",".join(FLOODS))
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    with tempfile.TemporaryDirectory() as folder:
        running = Tcp(Path(folder)).prepare("alice").start()
        try:
            results = [measure(running, name, args.seconds, args.rate) for name in args.flood.split(",")]
        finally:
            running.stop()
    return 0 if all(results) else 1


class Tcp(Running):
    """A server that listens on its port over UDP and TCP."""

    def command(self, *extra: str) -> list[str]:
        return [
            word.replace("udp:", "") if word.startswith("udp:127.0.0.1") else word for word in super().command(*extra)
        ]


if __name__ == "__main__":
    sys.exit(main())
