"""What answered requests cost until they are forgotten: bytes per call, and microseconds of CPU per call.

``python bench/residue.py [--calls N]``: N calls (INVITE with SDP, 180, 200, ACK, BYE, 200) through one pipeline in memory,
while the clock stands still. 1,000 calls/s keep 32,000 of them (64*T1).
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

from support.receiver import Bench, Sent, request, response

SDP = (
    "v=0\r\no=alice 2890844526 2890844526 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n"
    "m=audio 49170 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n"
)
CALLEE = ("192.0.2.2", 5060)


def rss() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def call(bench: Bench, number: int) -> None:
    call_id = f"{number:08x}-4a5b-6c7d-8e9f@192.0.2.1"
    bench.receive(request(body=SDP, call_id=call_id, branch=f"z9hG4bK-524287-1---{number:016x}"))
    invite = next(item for item in bench.kept if item.what == "INVITE")
    answer = response(invite, 200, "OK", extra=("Contact: <sip:bob@192.0.2.2:5060>", "Content-Type: application/sdp"))
    bench.receive(response(invite, 180, "Ringing"), CALLEE)
    bench.receive(answer.replace("Content-Length: 0\r\n\r\n", f"Content-Length: {len(SDP)}\r\n\r\n{SDP}"), CALLEE)
    bench.receive(request("ACK", call_id=call_id, to_tag="bob", branch=f"z9hG4bK-524287-2---{number:016x}"))
    bench.receive(
        request("BYE", call_id=call_id, to_tag="bob", cseq=2, branch=f"z9hG4bK-524287-3---{number:016x}"), CALLEE
    )
    bye = next(item for item in bench.kept if item.what == "BYE")
    bench.receive(response(bye, 200, "OK"), CALLEE)


class Quick(Bench):
    """A Bench without greenlets, which keeps what went out last."""

    kept: list[Sent]

    def receive(self, data: bytes | str, source: tuple[str, int] = ("192.0.2.1", 5060)) -> list[Sent]:
        raw = data.encode() if isinstance(data, str) else data
        self.pipeline.receive(raw, self.flow(source))
        self.kept = self.take()
        return self.kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20000)
    calls = parser.parse_args().calls
    bench = Quick(main=lambda b, ctx: b.tm.t_relay(ctx))
    for number in range(200):
        call(bench, number)
    gc.collect()
    gc.freeze()
    before, began = rss(), time.process_time()
    for number in range(200, 200 + calls):
        call(bench, number)
    spent = time.process_time() - began
    gc.collect()
    grown = rss() - before
    print(f"{calls} calls: {grown / calls:.0f} bytes and {spent / calls * 1e6:.0f} us a call")
    print(f"1,000 calls/s for 32 s: {grown / calls * 32000 / 1e6:.0f} MB")
    assert len(bench.layer.servers) >= 2 * calls


if __name__ == "__main__":
    main()
