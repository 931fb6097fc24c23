"""What credentials cost one receiver, in microseconds: nonce made, nonce checked, its use noted, the digest.

usage: VENV/bin/python bench/credentials.py [--rounds 20000]

The best of seven rounds, warm. Under ``valgrind --tool=callgrind`` with --only the difference of two --rounds counts
instructions. Needs: an installed serpy. Runs in: bench only.
"""

from __future__ import annotations

import argparse
import timeit

from serpy.modules.auth.counts import ENTRY_SIZE, STRIPES, NonceCounts
from serpy.modules.auth.nonces import Nonces
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment
from serpy.sip.digest import ha1, response

NOW = 1_700_000_000
HOST = "203.0.113.7"
ENTRIES = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--only", default="", help="made, checked, noted or digest, once")
    chosen = parser.parse_args()
    segment = Segment(4 << 20)
    area = segment.allocate("nonces", ENTRIES * ENTRY_SIZE)
    counts = NonceCounts(area, StripedLock(segment, "nonces", STRIPES))
    nonces = Nonces(b"secret", 300, 3, None, bound=True)
    nonce = nonces.make(NOW, HOST)
    secret = ha1("alice", "example.com", "wonderland")
    serials = iter(range(1 << 60))
    parts = {
        "made": lambda: nonces.make(NOW, HOST),
        "checked": lambda: nonces.check(nonce, NOW, HOST),
        "noted": lambda: counts.use(NOW, next(serials), 1, NOW),
        "digest": lambda: response(secret, nonce, "REGISTER", "sip:example.com", "auth", "00000001", "0a4f113b"),
    }
    for name, part in parts.items():
        if chosen.only in ("", name):
            repeat = 1 if chosen.only else 7
            best = min(timeit.repeat(part, number=chosen.rounds, repeat=repeat)) / chosen.rounds
            print(f"{name:8} {best * 1e6:6.2f} us", flush=True)


if __name__ == "__main__":
    main()
