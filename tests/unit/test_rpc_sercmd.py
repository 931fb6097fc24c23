"""sercmd against a small BINRPC server in a thread."""

import io
import os
import socket
import threading

import pytest

from serpy.rpc import binrpc
from serpy.tools import sercmd

ANSWERS = {
    "core.version": ["serpy 1"],
    "core.ps": [11, "udp receiver", 12, "timer"],
    "core.uptime": [{"now": "today", "uptime": 10}],
    "t.all": [5, -7, 1.5, "text", {"a": 1, "b": "x"}, [1, 2]],
    "t.none": [],
    "system.listMethods": ["core.ps", "t.all"],
    "domain.reload": [{"domains": 2}],
}


class Answering:
    """Answers what ANSWERS holds, echoes ``t.echo``, faults 404 otherwise. ``requests`` are the values received."""

    def __init__(self, folder, kind):
        self.requests = []
        self.junk = b""
        family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
        self.stream = kind in ("unixs", "tcp")
        self.sock = socket.socket(family, socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM)
        self.sock.bind(str(folder / "ctl") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        place = self.sock.getsockname()
        self.address = f"{kind}:{place}" if isinstance(place, str) else f"{kind}:127.0.0.1:{place[1]}"
        if self.stream:
            self.sock.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        try:
            while True:
                if self.stream:
                    with self.sock.accept()[0] as peer:
                        while data := peer.recv(65535):
                            reply = self.reply(data)
                            peer.sendall(reply[:3])  # a reply may come in pieces
                            peer.sendall(reply[3:])
                else:
                    data, peer = self.sock.recvfrom(65535)
                    self.sock.sendto(self.reply(data), peer)
        except OSError:
            return

    def reply(self, data):
        head = binrpc.parse_head(data)
        values = binrpc.parse_payload(data[head.total - head.size :])
        self.requests.append(values)
        if self.junk:
            return self.junk
        if values[0] == "t.echo":
            return binrpc.build_message(binrpc.REPLY, head.cookie, values[1:])
        if values[0] not in ANSWERS:
            return binrpc.build_message(binrpc.FAULT, head.cookie, (404, f"method {values[0]} not found"))
        return binrpc.build_message(binrpc.REPLY, head.cookie, ANSWERS[values[0]])

    def close(self):
        if self.stream:
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@pytest.fixture
def server(tmp_path, request):
    found = Answering(tmp_path, getattr(request, "param", "unixs"))
    yield found
    found.close()


def run(server, capfd, *words):
    status = sercmd.main(["-s", server.address, *words])
    said = capfd.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("server", ["unixs", "unixd", "tcp", "udp"], indirect=True)
def test_every_transport_carries_a_call(server, capfd, tmp_path):
    assert run(server, capfd, "-D", str(tmp_path), "core.version") == (0, "serpy 1\n", "")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("sercmd_")] == []


@pytest.mark.parametrize(
    ("words", "out"),
    [
        pytest.param(("core.ps",), "11\nudp receiver\n12\ntimer\n", id="values-one-per-line"),
        pytest.param(("ps",), "11\tudp receiver\n12\ttimer\n", id="ps-in-two-columns"),
        pytest.param(("core.uptime",), "{\n\tnow: today\n\tuptime: 10\n}\n", id="a-struct-in-braces"),
        pytest.param(
            ("t.all",), "5\n-7\n1.500000\ntext\n{\n\ta: 1\n\tb: x\n}\n[\n\t1\n\t2\n]\n", id="every-type"
        ),
        pytest.param(("t.none",), "", id="nothing"),
        pytest.param(("server",), "serpy 1\n", id="alias"),
        pytest.param(("ls",), "core.ps\nt.all\n", id="list"),
        pytest.param(("-f", "pid %v: %v (%%v)\\n", "core.ps"), "pid 11: udp receiver (%v)\npid 12: timer (%v)\n", id="format"),
        pytest.param(("-f", "%v=%v;", "core.uptime"), "today=10;", id="format-of-a-struct"),
        pytest.param(("-f", "once\\t\\\\", "core.ps"), "once\t\\", id="format-without-values"),
    ],
)  # fmt: skip
def test_results_are_printed_as_sercmd_prints_them(server, capfd, words, out):
    assert run(server, capfd, *words) == (0, out, "")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        pytest.param("12", 12, id="number"),
        pytest.param("-3", -3, id="negative"),
        pytest.param("0x1F", 31, id="hexadecimal"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("s:12", "12", id="forced-text"),
        pytest.param("s:", "", id="empty-text"),
        pytest.param("alice@example.com", "alice@example.com", id="text"),
        pytest.param("1.2.3.4", "1.2.3.4", id="address"),
        pytest.param("\u0661\u0662", "\u0661\u0662", id="digits-of-another-script"),
        pytest.param("9" * 25, "9" * 25, id="too-long-for-a-number"),
        pytest.param("9999999999", "9999999999", id="over-32-bits-travels-as-text"),
    ],
)
def test_arguments_travel_with_their_type(server, capfd, word, value):
    assert run(server, capfd, "t.echo", word)[0] == 0
    assert server.requests == [["t.echo", value]]


def test_a_fault_is_an_error_on_standard_error_and_status_1(server, capfd):
    assert run(server, capfd, "no.such", "1") == (1, "", "error: 404 - method no.such not found\n")


@pytest.mark.parametrize("server", ["unixs", "udp"], indirect=True)
def test_rubbish_from_the_server_is_no_answer(server, capfd):
    server.junk = b"HTTP/1.0 400 Bad Request\r\n\r\n"
    status, out, err = run(server, capfd, "core.ps")
    assert (status, out) == (3, "")
    assert err.startswith("error: no server answers at ")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        pytest.param(("-s", "unixs:/nonexistent/ctl", "core.ps"), 3, id="no-server"),
        pytest.param(("-s", "tcp:1.2.3.4:x", "core.ps"), 2, id="malformed-address"),
        pytest.param(("-x",), 2, id="unknown-option"),
        pytest.param(("-h",), 0, id="help"),
        pytest.param(("-V",), 0, id="version"),
    ],
)
def test_exit_status(capfd, words, status):
    assert sercmd.main(words) == status
    said = capfd.readouterr()
    assert said.out if status == 0 else said.err


def test_the_server_is_found_by_run_directory_environment_and_defaults(monkeypatch, tmp_path):
    monkeypatch.delenv("SERPY_CTL", raising=False)
    monkeypatch.setattr(sercmd, "DEFAULTS", (f"{tmp_path}/a", f"{tmp_path}/b"))
    assert str(sercmd.address_of("", "")) == f"unixs:{tmp_path}/a"
    (tmp_path / "b").touch()
    assert str(sercmd.address_of("", "")) == f"unixs:{tmp_path}/b"
    monkeypatch.setenv("SERPY_CTL", "unixs:/run/mine/ctl")
    assert str(sercmd.address_of("", "")) == "unixs:/run/mine/ctl"
    assert str(sercmd.address_of("", "/run/x")) == "unixs:/run/x/ctl"
    assert str(sercmd.address_of("udp:127.0.0.1", "/run/x")) == "udp:127.0.0.1:2049"


def test_commands_are_read_from_standard_input_without_a_method(server, capfd, monkeypatch):
    lines = "core.version\n\n# a comment\nno.such\nps\nhelp\nlicense\nquit\ncore.version\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status, out, err = run(server, capfd)
    assert status == 0
    assert out.startswith("serpy 1\n11\tudp receiver\n12\ttimer\nbuiltins: ")
    assert "BSD" in out
    assert out.count("serpy 1") == 1
    assert err == "error: 404 - method no.such not found\n"


def test_the_prompt_outlives_a_server_that_is_away(capfd, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("core.version\nwarranty\n"))
    assert sercmd.main(["-s", "unixs:/nonexistent/ctl"]) == 0
    said = capfd.readouterr()
    assert "no server answers" in said.err
    assert "no warranty" in said.out


def test_programs_of_a_server_find_its_socket_and_its_own_sercmd_first(monkeypatch, tmp_path):
    from serpy.daemon import _tell_programs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERPY_CTL", "unixs:/another/ctl")
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    _tell_programs("run")
    assert str(sercmd.address_of("", "")) == f"unixs:{tmp_path}/run/ctl"
    before = os.environ["PATH"]
    assert before.endswith(":/bin:/usr/bin")
    _tell_programs("run")
    assert os.environ["PATH"] == before
