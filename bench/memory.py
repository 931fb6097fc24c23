"""What the receivers hold on to: memory under 1,000 calls a second, and answers to messages that come again late.

usage: bench/memory.py calls [--bin VENV/bin] [--rate 1000] [--seconds 120]
       bench/memory.py repeat [--bin VENV/bin] [--after 20]

``calls``: memory of the receivers before, at the end, and 40 s later, when every transaction has gone (timers J, L and D
are 64*T1). ``repeat``: INVITE, BYE, MESSAGE and OPTIONS through the proxy, each sent again *after* seconds after its final
answer: the callee must not get it a second time (RFC 3261 §17.2.2, RFC 6026 §7.1).

Needs: apt-get install sip-tester. Runs in: bench only.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time
from pathlib import Path

from run import sipp, start_callee
from servers import HERE, Serpy, free_port, tree

GONE_S = 40.0


class Installed(Serpy):
    """The serpy of another virtual environment."""

    def __init__(self, folder: Path) -> None:
        super().__init__(HERE / "serpy/call.conf")
        self.bin = folder

    def command(self) -> list[str]:
        return [str(self.bin / "serpy"), *super().command()[1:]]


def receivers(server: Serpy) -> list[int]:
    """Their process ids."""
    found = []
    for pid in tree(server.pid):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        if title.startswith(b"serpy: udp receiver"):
            found.append(pid)
    return found


def memory(server: Serpy) -> tuple[float, float]:
    """(resident, proportional) MB of all receivers together."""
    resident = proportional = 0
    for pid in receivers(server):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                resident += int(line.split()[1])
            elif line.startswith("Pss:"):
                proportional += int(line.split()[1])
    return resident / 1024, proportional / 1024


def calls(server: Serpy, rate: int, seconds: int) -> None:
    """Print the memory before, at the end of and after *seconds* of calls."""
    port = free_port()
    callee = start_callee(server, port)

    def drive(count: int) -> dict[str, int]:
        return sipp(
            "call_uac.xml", server.port, count, rate, "-key", "callee", f"127.0.0.1:{port}", folder=server.folder
        )

    def show(when: str, before: float = 0.0) -> float:
        resident, proportional = memory(server)
        more = f"  {proportional - before:+.0f} MB" if before else ""
        print(f"{when:24} {resident:6.0f} MB resident  {proportional:6.0f} MB proportional{more}", flush=True)
        return proportional

    try:
        drive(rate)  # what is loaded and cached once does not count
        time.sleep(GONE_S)
        before = show("before")
        done = drive(rate * seconds)
        show(f"after {seconds} s of {rate}/s", before)
        time.sleep(GONE_S)
        show(f"{GONE_S:.0f} s later", before)
        print(f"calls: {done['ok']} ok, {done['failed']} failed, {done['retransmissions']} repetitions")
    finally:
        callee.kill()
        callee.wait()


# ---------------------------------------------------------------------------------------------------------- repeat


class Peer:
    """A UDP socket that says what it gets."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def take(self, seconds: float) -> list[str]:
        """All that comes in that time."""
        end = time.monotonic() + seconds
        found = []
        while (left := end - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                found.append(self.socket.recv(65536).decode())
        return found

    def send(self, text: str, port: int) -> None:
        self.socket.sendto(text.encode(), ("127.0.0.1", port))


def request(method: str, caller: Peer, callee: Peer, number: int, answered: str = "") -> str:
    """A request outside of calls, or (BYE) in the one that *answered*, a 200 to our INVITE, has begun."""
    headers = dict(line.split(": ", 1) for line in answered.split("\r\n")[1:] if ": " in line)
    route = [f"Route: {headers['Record-Route']}"] if "Record-Route" in headers else []
    lines = [
        f"{method} sip:bob@127.0.0.1:{callee.port} SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:{caller.port};branch=z9hG4bK{number}{time.time_ns()}", "Max-Forwards: 70", *route,
        f"From: {headers.get('From', f'<sip:alice@127.0.0.1>;tag={number}')}", f"To: {headers.get('To', '<sip:bob@127.0.0.1>')}",
        f"Call-ID: {headers.get('Call-ID', f'{number}-{time.time_ns()}')}",
        f"CSeq: {number} {method}", f"Contact: <sip:alice@127.0.0.1:{caller.port}>", "Content-Length: 0",
    ]  # fmt: skip
    return "\r\n".join(lines) + "\r\n\r\n"


def answer(text: str, status: int) -> str:
    keep = [line for line in text.split("\r\n") if line.startswith(("Via", "From", "Call-ID", "CSeq", "Record-Route"))]
    to = next(line for line in text.split("\r\n") if line.startswith("To:"))
    to += "" if ";tag=" in to else ";tag=bob"
    contact = text.split(" ", 2)[1]
    return (
        "\r\n".join([f"SIP/2.0 {status} Answer", *keep, to, f"Contact: <{contact}>", "Content-Length: 0"]) + "\r\n\r\n"
    )


def repeat(server: Serpy, after: float) -> int:
    """Print what becomes of each message that comes again; the number of those that reached the callee twice."""
    caller, callee = Peer(), Peer()
    asked = {}
    begun = ""
    for number, method in enumerate(("INVITE", "BYE", "MESSAGE", "OPTIONS"), 1):
        asked[method] = request(method, caller, callee, number, begun if method == "BYE" else "")
        caller.send(asked[method], server.port)
        for arrived in callee.take(0.3):
            callee.send(answer(arrived, 200), server.port)
        good = [text for text in caller.take(0.3) if text.startswith("SIP/2.0 200")]
        if not good:
            raise SystemExit(f"{method} was not answered")
        begun = begun or good[0]
    time.sleep(after)
    twice = 0
    for method, text in asked.items():
        caller.send(text, server.port)
        again = [each for each in callee.take(0.5) if each.startswith(method)]
        answers = [each.split(" ", 2)[1] for each in caller.take(0.5)]
        twice += bool(again)
        print(
            f"{method:8} sent again after {after:.0f} s: callee got {len(again)} more, caller {answers or 'no answer'}"
        )
    return twice


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("calls", "repeat"))
    parser.add_argument("--bin", type=Path, default=Path(sys.executable).parent, help="where the serpy to measure is")
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--after", type=float, default=20.0)
    chosen = parser.parse_args()
    server = Installed(chosen.bin)
    server.start()
    try:
        if chosen.what == "repeat":
            return 1 if repeat(server, chosen.after) else 0
        calls(server, chosen.rate, chosen.seconds)
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
