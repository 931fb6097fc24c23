"""sercmd: call the RPCs of a running server over BINRPC, as SER's program of that name does.

Without ``-s`` the server is the one that started this program (``SERPY_CTL``, set for whatever a script executes), else
the one with the default run directory, else SER's ``/tmp/ser_ctl``. It imports little, since timer routes start it every
minute. Exit status: 0 done, 1 the server refused (``error: CODE - text`` on standard error), 2 wrong usage, 3 no answer.

Runs in: its own process. Locks: none.
"""

from __future__ import annotations

import getopt
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import serpy
from serpy.errors import ConfigError, FramingError
from serpy.rpc import binrpc
from serpy.rpc.addresses import Address, parse_address
from serpy.rpc.protocol import RpcFault
from serpy.sip.text import printable, printable_lines

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_SERVER: Final = 3
ENVIRONMENT: Final = "SERPY_CTL"
DEFAULTS: Final = ("/run/serpy/ctl", "/tmp/ser_ctl")  # noqa: S108 - SER's own place
TIMEOUT_S: Final = 30.0
PROMPT: Final = "sercmd> "
MAX_DATAGRAM: Final = 65_535

# What SER's program calls by a short name: (method, format)
ALIASES: Final[dict[str, tuple[str, str]]] = {
    "ps": ("core.ps", "%v\t%v\n"),
    "list": ("system.listMethods", ""),
    "ls": ("system.listMethods", ""),
    "server": ("core.version", ""),
    "serversion": ("core.version", ""),
    "who": ("ctl.who", ""),
    "listen": ("ctl.listen", ""),
}
PREFIXES: Final = (("dns_", "dns."), ("dst_blacklist_", "dst_blacklist."))
BUILTINS: Final = ("?", "help", "quit", "exit", "warranty", "license")
USAGE: Final = """\
usage: sercmd [options] [method [argument ...]]
  -s ADDRESS  where the server listens: unixs:PATH unixd:PATH tcp:HOST:PORT udp:HOST:PORT
  -Y DIR      run directory of the server: its socket there (default /run/serpy)
  -R NAME     name of our own socket for unixd
  -D DIR      directory for that socket (default: that of temporary files)
  -f FORMAT   print the values where %v stands
  -v          say what is sent and received
  -V          version
  -h          this text
Without a method: a prompt. A number is sent as a number, with a dot as a fraction; s:TEXT is always text.
"""
_LICENSE: Final = "serpy is free software under the BSD 3-Clause license; see the file LICENSE.\n"
_WARRANTY: Final = "There is no warranty, to the extent permitted by law; see the file LICENSE.\n"
_INT: Final = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_HEX: Final = re.compile(r"0[xX][0-9a-fA-F]{1,15}", re.ASCII)
_DOUBLE: Final = re.compile(r"[+-]?[0-9]{0,15}\.[0-9]{1,15}", re.ASCII)
_FORMAT: Final = re.compile(r"%%v|%v|\\.", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


class Client:
    """One conversation with the server at *address*; a stream stays open over several calls."""

    def __init__(self, address: Address, *, reply_name: str = "", reply_dir: str = "", verbose: bool = False) -> None:
        self.address: Final = address
        self._reply_name = reply_name
        self._reply_dir = reply_dir
        self._verbose = verbose
        self._number = os.getpid() & 0xFFFF
        self._sock: socket.socket | None = None
        self._bound = ""

    def call(self, method: str, params: Sequence[object]) -> list[object]:
        """The values that *method* returns. Raises RpcFault; OSError when there is no server or no answer in time."""
        self._number += 1
        cookie = (self._number & 0xFFFFFFFF).to_bytes(4, "big")
        request = binrpc.build_message(binrpc.REQUEST, cookie, [method, *params])
        if self._verbose:
            sys.stderr.write(f"sending {len(request)} bytes to {self.address}: {method} {list(params)!r}\n")
        try:
            head, payload = self._exchange(request, cookie)
            values = binrpc.parse_payload(payload)
        except (FramingError, IndexError) as exc:
            self.close()
            raise OSError(f"not the answer of a SIP server: {exc}") from None
        except OSError:
            self.close()
            raise
        if self._verbose:
            sys.stderr.write(f"received {len(payload)} bytes\n")
        if head.kind == binrpc.FAULT:
            code, text = [*values, 500, ""][:2] if len(values) < 2 else values[:2]
            raise RpcFault(code if isinstance(code, int) else 500, str(text))
        return values

    def close(self) -> None:
        """Close; the next call opens anew."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._bound:
            Path(self._bound).unlink(missing_ok=True)
            self._bound = ""

    def _exchange(self, request: bytes, cookie: bytes) -> tuple[binrpc.Head, bytes]:
        deadline = time.monotonic() + TIMEOUT_S
        sock = self._sock or self._open()
        self._sock = sock
        sock.settimeout(TIMEOUT_S)
        if self.address.is_stream:
            sock.sendall(request)
        else:
            sock.send(request)
        while True:
            head, payload = self._receive(sock, deadline)
            if head.cookie == cookie and head.kind in (binrpc.REPLY, binrpc.FAULT):
                return head, payload

    def _open(self) -> socket.socket:
        address = self.address
        kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
        family = socket.AF_UNIX
        if address.port:
            family = socket.AF_INET6 if ":" in address.path else socket.AF_INET
        sock = socket.socket(family, kind)
        sock.settimeout(TIMEOUT_S)
        try:
            if address.kind == "unixd":
                self._bind(sock)
            sock.connect((address.path, address.port) if address.port else address.path)
        except OSError:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket) -> None:
        """A unix datagram is answered to a name, so we need one."""
        name = self._reply_name
        if not name:
            folder = self._reply_dir or tempfile.gettempdir()
            name = str(Path(folder) / f"sercmd_{os.getpid()}_{self._number}")
        before = os.umask(0o077)
        try:
            sock.bind(name)
        finally:
            os.umask(before)
        self._bound = name

    def _receive(self, sock: socket.socket, deadline: float) -> tuple[binrpc.Head, bytes]:
        data = b""
        while True:
            head = binrpc.parse_head(data)
            if head is not None and len(data) >= head.total:
                return head, data[head.total - head.size : head.total]
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            sock.settimeout(left)
            part = sock.recv(MAX_DATAGRAM)
            if not part:
                raise ConnectionError("the server closed the connection")
            if data and not self.address.is_stream:
                raise FramingError("an answer cut in two")
            data += part


# -- arguments and results --------------------------------------------------------------------------------------------


def typed(text: str) -> object:
    """An argument as it travels: a number when it looks like one, else text; ``s:`` forces text."""
    if text.startswith("s:"):
        return text[2:]
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    return float(text) if _DOUBLE.fullmatch(text) else text


def plain(values: Sequence[object], indent: int = 0) -> str:
    """*values* one per line, structs in braces, arrays in brackets."""
    lines: list[str] = []
    pad = "\t" * indent
    for value in values:
        if isinstance(value, dict):
            lines += [f"{pad}{{\n", _members(value, indent + 1), f"{pad}}}\n"]
        elif isinstance(value, list):
            lines += [f"{pad}[\n", plain(value, indent + 1), f"{pad}]\n"]
        else:
            lines.append(f"{pad}{_line_or_help(value) if not indent else _scalar(value)}\n")
    return "".join(lines)


def _line_or_help(value: object) -> str:
    """A value that stands alone: the help of a method has several lines."""
    return printable_lines(value) if isinstance(value, str) else _scalar(value)


def _members(struct: dict[str, object], indent: int) -> str:
    pad = "\t" * indent
    lines: list[str] = []
    for name, value in struct.items():
        if isinstance(value, dict):
            lines += [f"{pad}{printable(name)}: {{\n", _members(value, indent + 1), f"{pad}}}\n"]
        else:
            lines.append(f"{pad}{printable(name)}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, float):
        return f"{value:f}"
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    return printable(text)


def formatted(form: str, values: Sequence[object]) -> str:
    """*form* with a value at each ``%v``, again and again until all are printed."""
    rest = list(_flat(values))
    out: list[str] = []
    while rest:
        before = len(rest)
        out.append(_FORMAT.sub(lambda match: _filled(match.group(), rest), form))
        if len(rest) == before:  # a form without a place for a value is printed once
            break
    return "".join(out)


def _filled(found: str, rest: list[object]) -> str:
    if found == "%%v":
        return "%v"
    if found == "%v":
        return _scalar(rest.pop(0)) if rest else ""
    return _ESCAPES.get(found[1], found)


def _flat(values: Sequence[object]) -> list[object]:
    found: list[object] = []
    for value in values:
        if isinstance(value, dict):
            found += _flat(list(value.values()))
        elif isinstance(value, list):
            found += _flat(value)
        else:
            found.append(value)
    return found


def method_of(word: str) -> tuple[str, str]:
    """The method that *word* means and the format its values are printed in."""
    for prefix, family in PREFIXES:
        if word.startswith(prefix):
            return family + word.removeprefix(prefix), ""
    return ALIASES.get(word, (word, ""))


# -- the program ------------------------------------------------------------------------------------------------------


class Program:
    """One invocation: where to call, how to print."""

    def __init__(self, client: Client, form: str = "") -> None:
        self.client = client
        self.form = form

    def run(self, words: Sequence[str]) -> int:
        """Call what *words* say and print the result; the exit status."""
        word = words[0]
        if word in ("?", "help", "h"):
            return self._help(words[1:])
        if word in ("warranty", "license"):
            sys.stdout.write(_WARRANTY if word == "warranty" else _LICENSE)
            return 0
        method, form = method_of(word)
        try:
            values = self.client.call(method, [typed(text) for text in words[1:]])
        except RpcFault as fault:
            _complain(f"error: {fault.code} - {fault.text}")
            return EXIT_FAILED
        form = self.form or form
        _write(formatted(form, values) if form else plain(values))
        return 0

    def _help(self, words: Sequence[str]) -> int:
        if words:
            return self.run(["system.methodHelp", f"s:{method_of(words[0])[0]}"])
        sys.stdout.write(f"builtins: {' '.join(BUILTINS)}\naliases: {' '.join(ALIASES)}\nmethods:\n")
        return self.run(["ls"])

    def prompt(self) -> int:
        """Read commands until ``quit`` or the end of the input; the status of the last one."""
        interactive = sys.stdin.isatty()
        if interactive:
            self._completion()
        status = 0
        while True:
            try:
                line = input(PROMPT if interactive else "")
            except EOFError:
                if interactive:
                    sys.stdout.write("\n")
                return status
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                continue
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("quit", "exit"):
                return status
            try:
                status = self.run(words)
            except OSError as exc:  # it may be back at the next command
                _complain(_no_answer(self.client.address, exc))
                status = EXIT_NO_SERVER
            sys.stdout.flush()

    def _completion(self) -> None:
        try:
            import readline  # noqa: PLC0415 - needed at a terminal only, and not every Python has it
        except ImportError:
            return
        names = [*BUILTINS, *ALIASES]
        try:
            names += [str(name) for name in self.client.call("system.listMethods", [])]
        except (OSError, RpcFault):
            return
        names.sort()

        def complete(text: str, state: int) -> str | None:
            words = readline.get_line_buffer()[: readline.get_begidx()].split()
            if words and words[0] not in ("?", "help", "h"):
                return None
            found = [name for name in names if name.startswith(text)]
            return f"{found[state]} " if state < len(found) else None

        readline.set_completer_delims(" \t\n")
        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def _complain(text: str) -> None:
    sys.stderr.write(f"{printable_lines(text)}\n")


def _no_answer(address: Address, exc: OSError) -> str:
    return f"error: no server answers at {address}: {exc.strerror or exc}"


def address_of(given: str, run_dir: str) -> Address:
    """Where the server is: as *given*, else the socket in *run_dir*, else SERPY_CTL, else the places of the defaults.

    Raises ConfigError for a malformed address.
    """
    if given:
        return parse_address(given)
    if run_dir:
        return Address("unixs", str(Path(run_dir) / "ctl"))
    told = os.environ.get(ENVIRONMENT, "")
    if told:
        return parse_address(told)
    found = next((path for path in DEFAULTS if Path(path).exists()), DEFAULTS[0])
    return Address("unixs", found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, or the prompt, and return the exit status."""
    try:
        pairs, words = getopt.getopt(list(sys.argv[1:] if argv is None else argv), "+s:Y:R:D:f:vVh")
    except getopt.GetoptError as exc:
        sys.stderr.write(f"sercmd: {exc}\n{USAGE}")
        return EXIT_USAGE
    options = dict(pairs)
    if "-h" in options:
        sys.stdout.write(USAGE)
        return 0
    if "-V" in options:
        sys.stdout.write(f"sercmd {serpy.__version__}\n")
        return 0
    try:
        address = address_of(options.get("-s", ""), options.get("-Y", ""))
    except ConfigError as exc:
        sys.stderr.write(f"sercmd: {exc}\n")
        return EXIT_USAGE
    client = Client(address, reply_name=options.get("-R", ""), reply_dir=options.get("-D", ""), verbose="-v" in options)
    program = Program(client, options.get("-f", ""))
    try:
        status = program.run(words) if words else program.prompt()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains at its end
        return EXIT_FAILED
    except OSError as exc:
        _complain(_no_answer(address, exc))
        return EXIT_NO_SERVER
    finally:
        client.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
