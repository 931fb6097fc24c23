"""Fuzz the SIP layer: parse, every accessor, every writer. With atheris where it is installed, else plain random damage.

    python bench/fuzz_parser.py [--seconds N] [--seed N]

Exit status 0 = no finding; a finding is a traceback and the bytes that caused it.
"""

# ruff: noqa: PLC0415 - atheris instruments what is imported after it

import argparse
import contextlib
import random
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

LENGTH = re.compile(rb"(?:content-length|l)[ \t]*(?:[\r\n:]|$)", re.IGNORECASE)
CORPUS = Path(__file__).parent.parent / "tests" / "corpus"


def is_written_as_read(data: bytes, written: bytes) -> bool:
    """True when *written* is the beginning of *data*, but for Content-Length headers that say again what one has said."""
    if data.startswith(written):
        return True
    at = 0
    left_out = False
    for line in data.splitlines(keepends=True):
        if line.startswith(written[at:]):  # what follows was no part of the message, maybe from the middle of a line on
            return True
        if written.startswith(line, at):
            at += len(line)
            left_out = False
        elif LENGTH.match(line) or (left_out and line[:1] in (b" ", b"\t")):
            left_out = True
        else:
            return False
    return at == len(written)


def load():
    from serpy.errors import ProtocolError
    from serpy.sip import authorization, nameaddr, uri, via
    from serpy.sip.message import Edits, Request
    from serpy.sip.parser import is_keepalive, parse_for_reply, parse_message, quick_call_id
    from serpy.sip.writer import build_ack, build_cancel, build_forwarded_response, build_reply, build_request, render

    names = ("via", "from_", "to", "cseq", "call_id", "contacts", "routes", "record_routes", "max_forwards", "expires",
             "content_length", "method", "from_tag", "to_tag")  # fmt: skip
    parsers = (
        uri.parse_uri,
        nameaddr.parse_nameaddr,
        nameaddr.split_commas,
        via.parse_via,
        authorization.parse_credentials,
    )

    def check(data: bytes) -> None:
        is_keepalive(data)
        quick_call_id(data)
        salvaged = parse_for_reply(data)
        if salvaged is not None:
            build_reply(salvaged, 400, "Bad Request", to_tag="t", received="192.0.2.1", rport=1)
        try:
            message = parse_message(data)
        except ProtocolError:
            return
        if not is_written_as_read(data.lstrip(b"\r\n"), render(message)):
            raise AssertionError("not written back identical")
        for name in names:
            with contextlib.suppress(ProtocolError):
                getattr(message, name)
        for at, name in enumerate(message.names):
            value = message.value(at)
            for parse in parsers:
                with contextlib.suppress(ProtocolError):
                    parse(value)
            with contextlib.suppress(ProtocolError):
                message.values(name)
        checked = False
        with contextlib.suppress(ProtocolError):
            message.check_mandatory()
            checked = True
        if isinstance(message, Request):
            build_request(message, "sip:x", "Via: SIP/2.0/UDP p", Edits(), ("X: y",), 1)
            reply = build_reply(message, 200, "OK", to_tag="t", received="192.0.2.1", rport=1)
            if checked:
                build_ack(message, parse_message(reply))
                build_cancel(message)
        else:
            build_forwarded_response(message, Edits())

    return check


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes((rng.randrange(256),))
        elif kind == 1:
            del data[at : at + rng.choice((1, 2, 10, 100))]
        elif kind == 2:
            data[at:at] = rng.choice(
                (b"\r\n", b"\n", b"\r", b'"', b"<", b">", b",", b";", b":", b"\\", b"%", b"\x00", b" ", b"\xff")
            )
        elif kind == 3:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.randrange(200)]
        elif kind == 4:
            data[at:at] = data[at : at + rng.randrange(60)] * rng.choice((1, 2, 50))
        else:
            del data[at:]
    return bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds = [path.read_bytes() for path in sorted(CORPUS.rglob("*.sip")) if path.stat().st_size < 4000]
    try:
        import atheris
    except ImportError:
        check = load()
        rng = random.Random(options.seed)
        ends_at = time.monotonic() + options.seconds
        runs = 0
        while time.monotonic() < ends_at:
            data = damaged(rng, seeds)
            runs += 1
            try:
                check(data)
            except BaseException:
                print(f"seed {options.seed}, run {runs}: {data!r}", file=sys.stderr)
                raise
        print(f"{runs} random messages, no finding")
        return 0
    with atheris.instrument_imports(include=["serpy"]):
        check = load()
    dirs = [str(CORPUS / kind) for kind in ("valid", "invalid", "torture")]
    # the last directory receives nothing: new inputs go to the first, which is a scratch one
    with tempfile.TemporaryDirectory() as scratch:
        argv = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            "-max_len=4096",
            scratch,
            *dirs,
        ]
        atheris.Setup(argv, check)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
