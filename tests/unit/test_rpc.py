import logging
import shutil
import socket
import subprocess
import threading
from types import SimpleNamespace

import pytest

from serpy.api import Exports, Rpc, Server
from serpy.errors import BackendError, ConfigError, FramingError, UsageError
from serpy.modules import cfg_rpc, ctl
from serpy.net.loop import Loop
from serpy.rpc import binrpc
from serpy.rpc.addresses import Address, parse_address
from serpy.rpc.listen import RpcSettings, open_socket
from serpy.rpc.metrics import answer, metric_name
from serpy.rpc.protocol import HEADER, RpcFault, call, decode, frame, frame_size
from serpy.rpc.registry import Registry, arguments_for
from serpy.rpc.server import RpcServer
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.shm.variables import Variables


class Methods:
    def __init__(self):
        self.loop = None

    def add(self, left: int, right: int = 1) -> int:
        """The sum of two numbers."""
        return left + right

    def text(self, value: str) -> str:
        return value

    def half(self, value: float) -> float:
        return value / 2

    def slow(self) -> str:
        self.loop.sleep(0.2)
        return "slept"

    def refuse(self):
        raise UsageError("you may not")

    def broken(self):
        raise ZeroDivisionError

    def down(self):
        raise BackendError("no database")

    def rows(self):
        return [{"uid": "alice", "n": 1}, {"uid": "bob", "n": -2}]

    def nested(self):
        return [{"names": ["a", "b"], "attributes": {"x": 1}}]

    def big(self):
        return "x" * 3_000_000

    def exports(self):
        names = ("add", "text", "half", "slow", "refuse", "broken", "down", "rows", "nested", "big")
        return Exports(name="t", module=self, rpc=tuple(Rpc(f"t.{name}", getattr(self, name)) for name in names))


class Running:
    """An RPC server on a loop in a thread of its own."""

    def __init__(self, folder, *modules):
        segment = Segment(8 << 20)
        counters = Counters(segment, 2)
        counters.declare("udp.received", "datagrams")
        counters.bump("credentials")
        methods = Methods()
        server = Server(SimpleNamespace())
        server.run_dir = str(folder)
        server.segment, server.counters, server.loop = segment, counters, Loop()
        server.variables = Variables()
        server.variables.declare("custom", "limit", "int", 5, "how many")
        server.variables.declare("custom", "name", "str", "x")
        server.variables.place(segment, counters)
        methods.loop = server.loop
        for exports in (methods.exports(), *modules):
            server.exports[exports.name] = exports
            if exports.init is not None:
                exports.init(server)
            if exports.child_init is not None:
                exports.child_init(server)
        counters.status.starting(0, 4711, "udp receiver", 0, "udp receiver child=0")
        self.server = server
        self.rpc = RpcServer(server)
        self.rpc.start()
        self.path = f"{folder}/ctl"
        ours, self._stop = socket.socketpair()
        server.loop.add_reader(ours.fileno(), server.loop.stop)
        self._ours = ours
        self._thread = threading.Thread(target=server.loop.run, daemon=True)
        self._thread.start()

    def call(self, method, *params):
        return call(self.path, method, params, 5.0)

    def stop(self):
        self._stop.send(b"x")
        self._thread.join(5)
        self.rpc.close()
        self._stop.close()
        self._ours.close()


@pytest.fixture
def running(tmp_path):
    found = Running(tmp_path, cfg_rpc.exports())
    yield found
    found.stop()


# -- frames


def test_a_frame_brings_any_text_back_unchanged():
    data = frame({"text": "grün \udcff \0"})
    assert frame_size(data[: HEADER.size], 1000) == len(data) - HEADER.size
    assert decode(data[HEADER.size :]) == {"text": "grün \udcff \0"}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"S2\0\0\0\1", id="another-version"),
        pytest.param(b"GET / ", id="another-protocol"),
        pytest.param(b"S1\xff\0\0\0", id="over-the-limit"),
    ],
)
def test_a_frame_of_no_use_is_refused_by_its_header(head):
    with pytest.raises(FramingError):
        frame_size(head, 1000)


# -- BINRPC


@pytest.mark.parametrize(
    ("value", "data"),
    [
        pytest.param(0x1234, "201234", id="integer"),
        pytest.param(0, "00", id="zero-has-no-bytes"),
        pytest.param("abcdef", "7161626364656600", id="short-string"),
        pytest.param("abcdefhij", "910a61626364656668696a00", id="long-string"),
        pytest.param(-1, "40ffffffff", id="negative-integer"),
        pytest.param(2**40, "910e" + b"1099511627776\0".hex(), id="large-integer-as-text"),
        pytest.param([1, 2], "0410011002" + "84", id="array"),
        pytest.param({"a": 1}, "03" + "256100" + "1001" + "83", id="struct"),
    ],
)
def test_binrpc_values_have_the_bytes_of_the_specification(value, data):
    assert binrpc.build_value(value).hex() == data
    if value != 2**40:
        assert binrpc.parse_payload(bytes.fromhex(data)) == [value]


def test_binrpc_messages_are_recognised_byte_by_byte():
    message = binrpc.build_message(binrpc.REQUEST, b"\1\2\3\4", ["core.ps", 1.5, "x" * 300])
    assert all(binrpc.parse_head(message[:cut]) is None for cut in range(7))
    head = binrpc.parse_head(message)
    assert head.total == len(message)
    assert head.cookie == b"\1\2\3\4"
    assert binrpc.parse_payload(message[-head.size :]) == ["core.ps", 1.5, "x" * 300]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("7161", id="string-cut-off"),
        pytest.param("0410", id="array-cut-off"),
        pytest.param("03256100", id="struct-without-value"),
        pytest.param("84", id="end-of-nothing"),
        pytest.param("0f", id="unknown-type"),
        pytest.param("04" * 40, id="nested-too-deep"),
    ],
)
def test_malformed_binrpc_is_refused(data):
    with pytest.raises(FramingError):
        binrpc.parse_payload(bytes.fromhex(data))


# -- the registry


@pytest.mark.parametrize(
    ("name", "params", "result"),
    [
        pytest.param("t.add", [1, 2], 3, id="numbers"),
        pytest.param("t.add", ["1", "2"], 3, id="numbers-as-text"),
        pytest.param("t.add", [1], 2, id="optional-parameter"),
        pytest.param("t.text", [123], "123", id="a-text-that-looks-like-a-number"),
    ],
)
def test_parameters_become_what_the_method_wants(name, params, result):
    registry = Registry()
    for rpc in Methods().exports().rpc:
        registry.add(rpc)
    assert registry.call(name, params) == result


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [
        pytest.param("t.none", [], 404, id="unknown-method"),
        pytest.param("t.add", [], 400, id="missing-parameter"),
        pytest.param("t.add", [1, 2, 3], 400, id="too-many-parameters"),
        pytest.param("t.add", ["²"], 400, id="no-number"),
        pytest.param("t.text", [["x"]], 400, id="no-text"),
        pytest.param("t.refuse", [], 400, id="wrong-use"),
        pytest.param("t.down", [], 500, id="no-database"),
        pytest.param("t.broken", [], 500, id="a-bug"),
    ],
)
def test_every_failure_is_a_fault_with_a_code(name, params, code):
    registry = Registry()
    for rpc in Methods().exports().rpc:
        registry.add(rpc)
    with pytest.raises(RpcFault) as caught:
        registry.call(name, params)
    assert caught.value.code == code


def test_who_reads_the_log_finds_what_was_changed_by_rpc(caplog):
    registry = Registry()
    registry.add(Rpc("t.look", lambda: 1))
    registry.add(Rpc("t.change", lambda: 2, write=True))
    with caplog.at_level(logging.INFO, "serpy.rpc.registry"):
        assert [registry.call(name, []) for name in ("t.look", "t.change")] == [1, 2]
    assert caplog.messages == ["RPC t.change"]


# -- a running server


def test_core_methods_answer_over_the_socket(running):
    assert running.call("core.version").startswith("serpy ")
    assert running.call("core.uptime")["uptime"] >= 0
    assert running.call("core.echo", "a", 1) == ["a", 1]
    assert running.call("core.shmmem")["total"] == 8 << 20
    assert "t.add" in running.call("system.listMethods")
    assert running.call("system.methodHelp", "t.add") == "The sum of two numbers."
    assert running.call("system.methodSignature", "t.add") == "t.add left [right]"
    assert running.call("stats.get") == {"udp.received": 0}
    rows = running.call("core.ps")
    assert [row["description"] for row in rows] == ["master", "udp receiver child=0"]
    assert rows[1]["pid"] == 4711


def test_faults_reach_the_caller(running):
    with pytest.raises(RpcFault, match="400 - you may not"):
        running.call("t.refuse")


def test_a_large_reply_arrives_whole(running):
    assert len(running.call("t.big")) == 3_000_000


def test_a_slow_method_does_not_hold_up_other_callers(running):
    answers = []
    slow = threading.Thread(target=lambda: answers.append(running.call("t.slow")))
    slow.start()
    while not running.server.loop.parked:
        pass
    answers.append(running.call("core.pwd"))
    slow.join(5)
    assert answers[1] == "slept"


def test_several_requests_in_one_write_are_answered_in_order(running):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(running.path)
        sock.sendall(b"".join(frame({"id": n, "method": "t.add", "params": [n, 0]}) for n in range(3)))
        data = b""
        while data.count(b'"result"') < 3:
            data += sock.recv(65536)
    assert [data.find(b'"result":%d' % n) >= 0 for n in range(3)] == [True] * 3


def test_bumping_a_cache_raises_its_generation_only_when_somebody_has_one(running):
    assert running.call("cache.bump", "credentials") == {"generation": 2}
    assert running.call("cache.bump", "nonsense") == {"generation": 0}
    assert "nonsense" not in running.call("cache.generations")


def test_garbage_closes_the_connection_and_nothing_else(running):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(running.path)
        sock.sendall(b"\x00\x01\x02\x03\x04\x05\x06")
        assert sock.recv(10) == b""
    assert running.call("core.echo", 1) == [1]


def test_the_socket_is_for_its_owner_only_and_replaces_a_stale_one(tmp_path):
    first = Running(tmp_path)
    with pytest.raises(ConfigError, match="another process listens"):
        RpcServer(first.server).start()
    first.stop()
    assert (tmp_path / "ctl").stat().st_mode & 0o777 == 0o600
    second = Running(tmp_path)
    assert second.call("core.echo", "x") == ["x"]
    second.stop()


def binrpc_call(sock, *values):
    sock.sendall(binrpc.build_message(binrpc.REQUEST, b"\1\2", values))
    data = b""
    while (head := binrpc.parse_head(data)) is None or len(data) < head.total:
        data += sock.recv(65536)
    assert head.cookie == b"\1\2"
    return head.kind, binrpc.parse_payload(data[-head.size :] if head.size else b"")


def test_binrpc_works_on_the_same_socket(running):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(running.path)
        assert binrpc_call(sock, "core.ps") == (
            binrpc.REPLY,
            [binrpc_pid(running), "master", 4711, "udp receiver child=0"],
        )
        assert binrpc_call(sock, "t.rows") == (binrpc.REPLY, [{"uid": "alice", "n": 1}, {"uid": "bob", "n": -2}])
        assert binrpc_call(sock, "t.none") == (binrpc.FAULT, [404, "method t.none not found"])


def binrpc_pid(running):
    return running.call("core.ps")[0]["pid"]


def test_binrpc_works_over_datagrams_and_tcp(tmp_path):
    module = ctl.exports()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module.module.binrpc = [f"udp:127.0.0.1:{port}", f"tcp:127.0.0.1:{port}"]
    found = Running(tmp_path, module)
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.settimeout(5)
                sock.connect(("127.0.0.1", port))
                assert binrpc_call(sock, "core.echo", "hi") == (binrpc.REPLY, ["hi"])
        assert len(found.call("ctl.listen")) == 3
    finally:
        found.stop()


@pytest.mark.skipif(shutil.which("kamcmd") is None, reason="needs kamcmd (Debian: kamailio)")
def test_kamcmd_understands_the_answers(running):
    def kamcmd(*words):
        done = subprocess.run(
            ["kamcmd", "-s", f"unixs:{running.path}", *words], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout + done.stderr

    assert "uptime:" in kamcmd("core.uptime")
    assert "4711" in kamcmd("core.ps")
    assert "uid: bob" in kamcmd("t.rows")
    assert "names: a, b" in kamcmd("t.nested")
    assert "attributes.x: 1" in kamcmd("t.nested")
    assert "404 - method t.none not found" in kamcmd("t.none")
    assert kamcmd("t.text", "s:12").strip() == "12"
    assert kamcmd("t.text", "12").strip() == "12"


# -- ctl and cfg_rpc


@pytest.mark.parametrize(
    ("text", "address"),
    [
        pytest.param("unixs:/tmp/x", Address("unixs", "/tmp/x"), id="unix-stream"),
        pytest.param("unixd:/tmp/x", Address("unixd", "/tmp/x"), id="unix-datagram"),
        pytest.param("/tmp/x", Address("unixs", "/tmp/x"), id="a-path-is-a-unix-stream"),
        pytest.param("tcp:127.0.0.1", Address("tcp", "127.0.0.1", 2049), id="port-defaults-to-2049"),
        pytest.param("udp:[::1]:99", Address("udp", "::1", 99), id="ipv6"),
        pytest.param("localhost:3000", Address("udp", "localhost", 3000), id="udp-is-the-default"),
    ],
)
def test_rpc_addresses_are_read_as_ser_writes_them(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["unixs:", "udp:host:0", "tcp:host:port", "udp:", "tcp::1:99999999999"])
def test_malformed_rpc_addresses_are_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path):
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(ConfigError, match="is no socket"):
        open_socket(Address("unixs", str(path)), RpcSettings())
    assert path.read_text() == "x"


def test_variables_change_now_or_with_commit(running):
    assert running.call("cfg.list") == ["custom: limit", "custom: name"]
    running.call("cfg.set_now_int", "custom", "limit", 7)
    assert running.call("cfg.get", "custom", "limit") == 7
    running.call("cfg.set_delayed_int", "custom", "limit", 9)
    assert running.call("cfg.diff") == [{"group": "custom", "name": "limit", "current": 7, "new": 9}]
    assert running.call("cfg.get", "custom", "limit") == 7
    running.call("cfg.commit")
    assert running.call("cfg.get", "custom", "limit") == 9
    running.call("cfg.set_delayed_string", "custom", "name", "y")
    running.call("cfg.rollback")
    running.call("cfg.commit")
    assert running.call("cfg.get", "custom", "name") == "x"
    assert "how many" in running.call("cfg.help", "custom", "limit")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("cfg.get", "custom", "none"), id="unknown-variable"),
        pytest.param(("cfg.set_now_int", "custom", "name", 1), id="wrong-kind"),
        pytest.param(("cfg.set_now_string", "none", "name", "x"), id="unknown-group"),
    ],
)
def test_a_wrong_change_is_refused(running, words):
    with pytest.raises(RpcFault, match="400"):
        running.call(*words)


# -- metrics


def test_metrics_are_prometheus_text(running):
    text = answer(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", running.server.counters).decode()
    assert text.startswith("HTTP/1.1 200 OK\r\n")
    assert "\nserpy_udp_received 0\n" in text
    assert 'serpy_process_up{process="udp receiver child=0"} 0\n' in text
    assert metric_name("a.b-c") == "serpy_a_b_c"


def test_metrics_are_served_on_their_own_address(tmp_path):
    module = ctl.exports()
    module.module.metrics = [f"unixs:{tmp_path}/metrics"]
    found = Running(tmp_path, module)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(f"{tmp_path}/metrics")
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            data = b""
            while part := sock.recv(65536):
                data += part
        assert b"serpy_udp_received" in data
    finally:
        found.stop()


# -- requests that are meant to hurt


def closed_after(path, data):
    """What comes back for *data* until the connection is closed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5.0)
        sock.connect(path)
        sock.sendall(data)
        found = b""
        while part := sock.recv(65536):
            found += part
        return found


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" * 200_000, id="lists"),
        pytest.param(b'{"a":' * 150_000, id="objects"),
        pytest.param(b'{"id":1,"method":"t.text","params":[NaN]}', id="not-a-number"),
        pytest.param(b'{"id":1,"method":"t.text","params":[' + b"9" * 5000 + b"]}", id="a-number-of-5000-digits"),
        pytest.param(b"\xff\xfe", id="no-text"),
    ],
)
def test_a_frame_without_a_request_closes_its_connection_and_no_other(running, text):
    for _ in range(3):
        assert closed_after(running.path, HEADER.pack(b"S1", len(text)) + text) == b""
    assert running.call("t.add", 1, 2) == 3


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        pytest.param("t.text", [[[[[[[[[[[[[[[[[[["deep"]]]]]]]]]]]]]]]]]]], "nested", id="nested-lists"),
        pytest.param("t.add", [2**63], "whole number", id="a-number-over-64-bits"),
        pytest.param("t.half", [10**400], "number", id="a-fraction-over-all-floats"),
    ],
)
def test_a_parameter_out_of_bounds_is_told_and_the_connection_serves_on(running, method, params, text):
    with pytest.raises(RpcFault, match=text) as refused:
        running.call(method, *params)
    assert refused.value.code == 400


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True])
def test_a_fraction_is_a_finite_number(value):
    with pytest.raises(RpcFault, match="must be a number"):
        arguments_for(Methods().half, [value])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_while_answering_closes_the_connection(running):
    def broken(_text):
        raise RecursionError

    running.rpc.answer_json = broken
    request = frame({"id": 1, "method": "t.add", "params": [1]})
    assert closed_after(running.path, request) == b""
    assert running.rpc.connections == {}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_travels_as_text_in_binrpc(value):
    record = binrpc.build_value(value)
    assert binrpc.parse_payload(record) == [str(value)]
