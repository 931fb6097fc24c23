"""XML-RPC on the SIP port: what the script lets through is answered as over ctl, everything else is refused."""

from __future__ import annotations

import http.client
import xmlrpc.client

import pytest
from support.patience import PATIENCE_S
from support.running import Running
from support.tcp_phone import TcpPhone

pytestmark = pytest.mark.system

CONFIG = """
listen = 127.0.0.1:{port}
children = 2
tcp_children = 2
loadmodule "sl"
loadmodule "textops"
loadmodule "options"
loadmodule "xmlrpc"
modparam("xmlrpc", "route", "XMLRPC")
route {{
  if (method == "OPTIONS") {{ options_reply(); drop; }}
  sl_reply("404", "Not here");
}}
route[XMLRPC] {{
  if (search("^X-Do: fault")) {{ xmlrpc_reply("403", "Not you"); drop; }}
  if (search("^X-Do: reply")) {{ sl_reply("401", "Who are you"); drop; }}
  if (search("^X-Do: nothing")) {{ break; }}
  if (search("^X-Do: drop")) {{ drop; }}
  if (search("^X-Do: close")) {{ set_reply_close(); set_reply_no_connect(); }}
  if ((method == "POST" || method == "GET") && src_ip == 127.0.0.1 && proto == TCP) {{
    dispatch_rpc();
    break;
  }}
}}
"""
CALL = b"<methodCall><methodName>core.version</methodName></methodCall>"


class XmlRunning(Running):
    """A server whose configuration says where it listens; no database."""

    def command(self, *extra):
        words = super().command(*extra)
        at = words.index("-l")
        return [*words[:at], *words[at + 2 :]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xmlrpc")
    running = XmlRunning(folder, config=folder / "serpy.conf")
    running.config.write_text(CONFIG.format(port=running.port))
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def proxy(server):
    with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.port}/RPC2") as made:
        yield made


def post(server, body=CALL, method="POST", **headers):
    """(status, headers, body) of one HTTP request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    values = {"Content-Type": "text/xml", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, "/RPC2", body, values)
    answer = connection.getresponse()
    found = (answer.status, answer.headers, answer.read())
    connection.close()
    return found


def test_the_methods_of_ctl_are_there_with_their_types(server, proxy):
    assert proxy.core.version().startswith("serpy ")
    assert proxy.core.uptime()["uptime"] >= 0
    assert proxy.core.echo("a <b> & c", 7, 2.5, [1, {"x": "y"}]) == ["a <b> & c", 7, 2.5, [1, {"x": "y"}]]
    assert set(server.json("rpc", "system.listMethods")) == set(proxy.system.listMethods())
    names = proxy.core.ps()[1::2]
    assert [name for name in names if "tcp receiver" in name] == [
        "serpy: tcp receiver child=0",
        "serpy: tcp receiver child=1",
    ]


def test_a_carriage_return_survives(proxy):
    assert proxy.core.echo(xmlrpc.client.loads("<params><param><value>a&#13;b</value></param></params>")[0][0]) == [
        "a\nb"
    ]


def test_what_goes_wrong_is_a_fault(proxy):
    with pytest.raises(xmlrpc.client.Fault) as caught:
        proxy.no.such()
    assert caught.value.faultCode == 404
    with pytest.raises(xmlrpc.client.Fault, match="signal"):
        proxy.core.kill("x")


def test_a_large_call_and_answer_pass(proxy):
    text = "x" * 60_000
    assert proxy.core.echo(text) == [text]
    with pytest.raises(xmlrpc.client.ProtocolError) as caught:
        proxy.core.echo("x" * 70_000)
    assert caught.value.errcode == 413


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [
        pytest.param("fault", 200, b"Not you", id="xmlrpc-reply"),
        pytest.param("reply", 401, b"", id="sl-reply"),
        pytest.param("nothing", 403, b"", id="unanswered-is-refused"),
        pytest.param("drop", 403, b"", id="dropped-is-refused"),
    ],
)
def test_the_script_decides(server, what, status, text):
    found = post(server, X_Do=what)
    assert found[0] == status
    assert text in found[2]


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        pytest.param({}, False, id="kept-open"),
        pytest.param({"Connection": "close"}, True, id="as-the-client-asks"),
        pytest.param({"X_Do": "close"}, True, id="as-the-script-asks"),
    ],
)
def test_the_connection_after_the_answer(server, headers, closes):
    status, found, _ = post(server, **headers)
    assert (status, found["Connection"] == "close") == (200, closes)


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        pytest.param({"Content_Type": "text/plain"}, "POST", 415, id="what-a-browser-may-send-unasked"),
        pytest.param({}, "GET", 405, id="get"),
    ],
)
def test_what_cannot_be_a_call_is_refused_before_it_is_read(server, headers, method, status):
    assert post(server, method=method, **headers)[0] == status


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>', id="entities"
        ),
        pytest.param(CALL.decode().encode("utf-16"), id="utf-16"),
        pytest.param(b"<methodCall>", id="cut-off"),
        pytest.param(b"\xff" * 100, id="noise"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_no_call_is_a_fault(server, body):
    status, _, text = post(server, body)
    assert (status, b"<fault>" in text) == (200, True)


def test_two_calls_and_a_sip_request_share_a_connection(server):
    phone = TcpPhone(server.address)
    call = b"POST /RPC2 HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(CALL), CALL)
    phone.socket.sendall(call + call)
    while phone.data.count(b"</methodResponse>") < 2:
        phone.data += phone.socket.recv(65536)
    phone.data = b""
    phone.send(phone.request("OPTIONS", f"sip:127.0.0.1:{server.port}"))
    assert phone.final().status == 200
    phone.close()


def test_http_over_udp_is_not_served(server):
    phone = server.phone("alice")
    phone.send(f"POST /RPC2 HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: {len(CALL)}\r\n\r\n{CALL.decode()}")
    assert phone.receive(0.2) is None
    phone.close()
