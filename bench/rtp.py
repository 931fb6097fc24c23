"""What force_rtp_proxy costs: the SDP part alone, and a whole question to a media proxy in memory of one process.

``python bench/rtp.py [--calls N]``: microseconds of CPU per call. The proxy answers from a forked process, whose time is
not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from serpy.api import Server
from serpy.clock import Clock
from serpy.config import Settings
from serpy.context.context import Context
from serpy.modules import nathelper
from serpy.net.loop import Loop
from serpy.rtp.bencode import decode, encode
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip import sdp
from serpy.sip.flow import Flow, Listener
from serpy.sip.parser import parse_message

SDP = (
    "v=0\r\no=alice 2890844526 2890844526 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n"
    "m=audio 49170 RTP/AVP 0 8 9 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=rtcp:49171\r\na=sendrecv\r\n"
)
INVITE = (
    "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.7:5062;branch=z9hG4bKabc\r\n"
    "From: <sip:alice@example.com>;tag=f1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n"
    f"Max-Forwards: 70\r\nContent-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
)
FLOW = Flow(Listener(0, "udp", "192.0.2.1", 5060), "203.0.113.7", 5062)


def proxy(kind: str) -> tuple[int, int]:
    """A forked media proxy; (pid, port)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    pid = os.fork()
    if pid:
        port = sock.getsockname()[1]
        sock.close()
        return pid, port
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            data, source = sock.recvfrom(65535)
            cookie, _, question = data.partition(b" ")
            answer = b"40000 192.0.2.9"
            if kind == "ng":
                request = decode(question)
                assert isinstance(request, dict)
                answer = encode({"result": "ok", "sdp": request[b"sdp"]})
            sock.sendto(cookie + b" " + answer, source)
    os._exit(0)


def contexts(count: int) -> list[Context]:
    return [
        Context(parse_message(INVITE.format(call_id=f"call-{n}").encode()), FLOW, Clock(1.0, 1.0)) for n in range(count)
    ]


def descriptions(count: int) -> float:
    """µs for reading and rewriting one description."""
    data = SDP.encode()
    targets = {0: sdp.Target("192.0.2.9", 40000, False)}
    started = time.process_time()
    for _ in range(count):
        sdp.rewrite(sdp.parse_sdp(data), targets)
    return (time.process_time() - started) / count * 1e6


def questions(kind: str, count: int) -> tuple[float, float]:
    """µs of CPU of one force_rtp_proxy with its round trip, and µs until it returns."""
    pid, port = proxy(kind)
    server = Server(Settings())
    server.segment = Segment(1 << 20)
    server.counters = Counters(server.segment, 1)
    server.counters.attach(0)
    exports = nathelper.exports()
    module = exports.module
    module.rtpproxy_sock = [f"{'ng' if kind == 'ng' else 'udp'}:127.0.0.1:{port}"]
    module.init_rtp(server)
    loop = server.loop = Loop()
    todo = contexts(count)
    taken = []

    def handler() -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        for ctx in todo:
            assert module.force_rtp_proxy(ctx) == 1
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
        loop.stop()

    loop.spawn(handler)
    loop.run()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return taken[0][0] / count * 1e6, taken[0][1] / count * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=5000)
    count = options.parse_args().calls
    print(f"SDP read and rewritten: {descriptions(count):.1f} µs")
    for kind in ("rtpproxy", "ng"):
        cpu, wall = questions(kind, count)
        print(f"force_rtp_proxy, {kind}: {cpu:.1f} µs of CPU, {wall:.1f} µs until it returns")


if __name__ == "__main__":
    main()
