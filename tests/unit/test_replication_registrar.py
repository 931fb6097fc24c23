"""save_mem_nr takes replicas by CSeq and time; the way of a REGISTER from the script to the group."""

import json
import time
from types import SimpleNamespace

import pytest
from support.contexts import FLOW, LISTENER, context, request_text

from serpy import loader
from serpy.api import LOCATION, REPLIES, Exports, Flow, Listener, Server
from serpy.context.avps import TO_USER
from serpy.errors import ConfigError, ResourceError, UsageError
from serpy.modules import registrar, replication
from serpy.modules.registrar.replica import Replica
from serpy.net.handoff import REPLICATION_TOLD
from serpy.net.loop import Loop
from serpy.replication import handover
from serpy.replication.agent import _Question
from serpy.replication.settings import REPLICATION_SETTINGS, ReplicationSettings, networks, read_key
from serpy.replication.tombstones import TOMBSTONES, Tombstones
from serpy.shm.record import Binding
from serpy.shm.segment import Segment
from serpy.sip.parser import parse_message
from serpy.transaction.forward import E_SEND, Forwarder, is_group
from serpy.transaction.ways import Ways

GROUP = Listener(3, "udp", "224.0.1.75", 5060, multicast=True)
WALL = time.time()


class Location:
    """A table of one user."""

    def __init__(self):
        self.now = []
        self.persisted = []

    def bindings(self, _table, _uid):
        return self.now

    def update(self, _table, uid, decide, *, persist=True):
        put, removed = decide(list(self.now))
        gone = {each.contact for each in [*put, *removed]}
        self.now = [each for each in self.now if each.contact not in gone] + put
        self.persisted.append((uid, persist))
        return self.now


class Member:
    """The registrar of one server of a farm."""

    def __init__(self, server_id=1, *, store=False):
        self.location = Location()
        self.tombstones = Tombstones(Segment(1 << 20), 64)
        settings = ReplicationSettings()
        settings.store_replicas = store
        server = Server(SimpleNamespace(server_id=server_id))
        server.segment = Segment(1 << 20)
        server.provide(LOCATION, self.location)
        server.provide(REPLIES, SimpleNamespace(reply=lambda *_args: True))
        server.provide(TOMBSTONES, self.tombstones)
        server.provide(REPLICATION_SETTINGS, settings)
        self.module = registrar.exports().module
        self.module.init(server)
        self.module.child_init(server)

    def replica(self, cseq, *, taken=0.0, contact="<sip:c@h>", expires=600, call_id="call", uid="alice", server=2):
        text = request_text(
            f"Contact: {contact}", f"Expires: {expires}", method="REGISTER", uri=f"sip:{uid}@example.com"
        )
        text = text.replace("Call-ID: call-1@203.0.113.7", f"Call-ID: {call_id}").replace("CSeq: 1", f"CSeq: {cseq}")
        stamp = f"Serpy-Replica: grp=0;id={server};boot=1;seq=1;ts={round((WALL + taken) * 1000)};mac=0"
        text = text.replace("\r\nVia", f"\r\n{stamp}\r\nVia", 1)
        ctx = context(text, flow=Flow(GROUP, "192.0.2.9", 5060), wall_now=WALL)
        ctx.avps.set(TO_USER, "uid", uid)
        return self.module.save_mem_nr(ctx, "location")

    @property
    def cseqs(self):
        return [(each.call_id, each.cseq) for each in self.location.now]


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        pytest.param({"cseq": 1}, {"cseq": 2}, [("call", 2)], id="in-order"),
        pytest.param({"cseq": 2}, {"cseq": 1}, [("call", 2)], id="reordered"),
        pytest.param(
            {"cseq": 9, "call_id": "a"}, {"cseq": 1, "call_id": "b", "taken": 1.0}, [("b", 1)], id="later-call"
        ),
        pytest.param(
            {"cseq": 1, "call_id": "a"}, {"cseq": 9, "call_id": "b", "taken": -1.0}, [("a", 1)], id="earlier-call"
        ),
        pytest.param({"cseq": 1}, {"cseq": 2, "expires": 0}, [], id="removed"),
        pytest.param({"cseq": 2, "expires": 0}, {"cseq": 1}, [], id="removed-before-it-came"),
        pytest.param({"cseq": 2, "expires": 0, "contact": "*"}, {"cseq": 1}, [], id="all-removed-before-it-came"),
        pytest.param({"cseq": 2, "expires": 0}, {"cseq": 3}, [("call", 3)], id="registered-again"),
        pytest.param({"cseq": 2}, {"cseq": 1, "expires": 0, "contact": "*"}, [("call", 2)], id="an-old-removal"),
    ],
)
def test_replicas_resolve_by_cseq_then_time(first, second, left):
    member = Member()
    assert member.replica(**first) == 1
    assert member.replica(**second) == 1
    assert member.cseqs == left


def test_a_replica_does_not_mind_the_cseq_of_a_binding_that_has_expired_here():
    member = Member()
    member.replica(9)
    member.location.now[0].expires_at = int(WALL) - 5
    assert member.replica(1) == 1
    assert member.cseqs == [("call", 1)]


def test_a_replica_keeps_the_time_at_which_it_was_taken_elsewhere():
    member = Member()
    member.replica(1, taken=-7.5)
    assert member.location.now[0].modified_at == pytest.approx(WALL - 7.5, abs=0.001)


def test_a_contact_belongs_to_the_server_of_the_envelope():
    member = Member()
    member.replica(1, server=23)
    assert member.location.now[0].server_id == 23


@pytest.mark.parametrize(
    ("below", "received"),
    [
        (
            "SIP/2.0/TCP 192.0.2.50:5070;branch=z9hG4bKp;received=192.0.2.51;rport=40000",
            "sip:192.0.2.51:40000;transport=tcp",
        ),
        ("SIP/2.0/TCP [2001:db8::5];branch=z9hG4bKp", "sip:[2001:db8::5]:5060;transport=tcp"),
        ("SIP/2.0/UDP 192.0.2.50:5070;branch=z9hG4bKp", ""),
    ],
)
def test_a_replica_of_a_phone_on_tcp_is_called_by_tcp(below, received):
    member = Member()
    text = request_text(
        "Contact: <sip:c@192.0.2.50:5070>", "Expires: 600", method="REGISTER", uri="sip:alice@example.com"
    )
    text = text.replace("\r\nFrom:", f"\r\nVia: {below}\r\nFrom:", 1)
    ctx = context(text, flow=Flow(GROUP, "192.0.2.9", 5060), wall_now=WALL)
    ctx.avps.set(TO_USER, "uid", "alice")
    member.module.save_mem_nr(ctx, "location")
    kept = member.location.now[0]
    assert (kept.received, kept.flags & Binding.FLOW) == (received, Binding.FLOW if received else 0)


def test_an_escaped_uid_is_unescaped():
    member = Member()
    member.replica(1, uid="alice%40example.com")
    assert member.location.persisted == [("alice@example.com", False)]


def test_replicas_are_stored_when_each_server_has_a_database_of_its_own():
    member = Member(store=True)
    member.replica(1)
    assert member.location.persisted == [("alice", True)]


def test_a_header_that_did_not_come_from_the_group_is_not_believed():
    replica = Replica("location", None, WALL, None)
    assert replica.taken_at == WALL
    assert not replica.is_buried("alice", "sip:c@h", "call", 1)


def test_a_removal_here_covers_refreshes_that_we_have_not_seen():
    member = Member()
    member.location.now = [Binding("alice", "sip:c@h", int(WALL) + 6000, call_id="call", cseq=1, modified_at=WALL - 60)]
    text = request_text("Contact: <sip:c@h>;expires=0", method="REGISTER").replace("CSeq: 1", "CSeq: 3")
    ctx = context(text.replace("call-1@203.0.113.7", "call"), wall_now=WALL)
    ctx.avps.set(TO_USER, "uid", "alice")
    assert member.module.save_contacts(ctx, "location") == 1
    member.replica(2, taken=-1.0)
    assert member.cseqs == []


# ---- out


def forwarder():
    sent, handed = [], []
    made = Forwarder([LISTENER, GROUP], sent.append, Ways(b"", "", "0" * 8, "0" * 4, [LISTENER, GROUP]))
    made.to_group = lambda data, flow, wall_now: handed.append((data, flow, wall_now)) or True
    return made, sent, handed


def test_a_register_for_a_group_goes_to_the_timer_process_without_credentials():
    made, sent, handed = forwarder()
    ctx = context(
        request_text("Authorization: Digest x", "Proxy-Authorization: y", "Serpy-Replica: forged", "X-Y: y", method="REGISTER"),
        wall_now=WALL,
    )  # fmt: skip
    assert made.forward(ctx, "sip:224.0.1.75:5060;transport=udp")
    ((data, flow, wall_now),) = handed
    assert not sent
    assert (flow.host, flow.port, wall_now) == ("224.0.1.75", 5060, WALL)
    request = parse_message(data)
    assert not {"authorization", "proxy-authorization", "serpy-replica"} & set(request.names)
    assert request.get("x-y") == "y"
    assert len(request.get_all("via")) == 2


@pytest.mark.parametrize(
    ("method", "flow"),
    [
        pytest.param("INVITE", FLOW, id="not-a-register"),
        pytest.param("REGISTER", Flow(GROUP, "192.0.2.9", 5060), id="a-replica"),
    ],
)
def test_nothing_else_goes_to_a_group(method, flow):
    made, sent, handed = forwarder()
    ctx = context(request_text(method=method), flow=flow)
    assert not made.forward(ctx, "sip:224.0.1.75:5060;transport=udp")
    assert ctx.last_error == E_SEND
    assert not sent
    assert not handed


@pytest.mark.parametrize(
    ("host", "expected"),
    [("224.0.1.75", True), ("239.255.255.255", True), ("223.1.1.1", False), ("240.0.0.1", False), ("22.4.5.6", False),
     ("23.4.5.6", False), ("2.2.4.1", False), ("ff02::1", True), ("fe80::1", False), ("::1", False), ("", False)],
)  # fmt: skip
def test_groups_are_told_from_other_addresses(host, expected):
    assert is_group(host) is expected


def test_the_hand_over_keeps_everything():
    payload = handover.encode(b"REGISTER", Flow(LISTENER, "224.0.1.75", 5060), 1_700_000_000.1234)
    assert handover.decode(payload) == (b"REGISTER", 0, "224.0.1.75", 5060, 1_700_000_000_123)


# ---- set-up


def test_a_server_that_listens_on_a_group_has_the_module_without_naming_it(tmp_path):
    path = tmp_path / "conf"
    path.write_text("listen = udp:127.0.0.1:5099\nlisten = udp:224.0.1.75:5099\nserver_id = 4\nroute { drop; }\n")
    server = loader.load(str(path), {}, run_dir=str(tmp_path))
    assert isinstance(server.exports["replication"], Exports)
    secret = (tmp_path / "secrets").read_text().split("REPLICATION_SECRET=")[1].split("\n")[0]
    assert server.bind(REPLICATION_SETTINGS).key == secret.encode()
    assert server.find(TOMBSTONES) is not None
    assert "replication.dropped_forged" in server.counters.snapshot()


def test_a_secrets_file_of_an_earlier_version_gets_what_it_lacks(tmp_path):
    (tmp_path / "secrets").write_text("AUTH_SECRET=a\nCOOKIE_SECRET=b\n")
    conf = tmp_path / "conf"
    conf.write_text("listen = udp:127.0.0.1:5099\nroute { drop; }\n")
    loader.load(str(conf), {}, run_dir=str(tmp_path))
    first = (tmp_path / "secrets").read_text()
    loader.load(str(conf), {}, run_dir=str(tmp_path))
    assert first.startswith("AUTH_SECRET=a\nCOOKIE_SECRET=b\nREPLICATION_SECRET=")
    assert (tmp_path / "secrets").read_text() == first


def test_trusted_sources_are_addresses_and_networks():
    settings = ReplicationSettings()
    assert not settings.trusts("192.0.2.1")
    settings.trusted = networks(["192.0.2.0/28", "2001:db8::1"])
    assert [settings.trusts(host) for host in ("192.0.2.1", "192.0.2.16", "2001:db8::1")] == [True, False, True]
    with pytest.raises(ConfigError, match="is no address or network"):
        networks(["example.com"])


def test_the_key_may_stand_in_a_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(" secret\n")
    assert read_key(str(path)) == b"secret"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_key(str(path))
    with pytest.raises(ConfigError, match="cannot read"):
        read_key(str(tmp_path / "none"))


class Asking:
    """The module in ctl; *told* is what the timer process answers, None: it takes no more questions."""

    def __init__(self, told):
        self.told = told
        self.loop = Loop()
        self.handlers = {}
        channels = SimpleNamespace(on=self.handlers.__setitem__, send=self.send)
        server = SimpleNamespace(
            role="ctl", channels=channels, loop=self.loop, settings=SimpleNamespace(children=2), listeners=[GROUP]
        )
        self.module = replication.exports().module
        self.module.child_init(server)

    def send(self, _slot, _kind, payload):
        if self.told is not None:
            self.handlers[REPLICATION_TOLD](json.dumps({"id": json.loads(payload)["id"], **self.told}).encode(), 1)
        return self.told is not None


@pytest.mark.parametrize("told", [{"error": "too many are waiting"}, None], ids=["refused", "not-asked"])
def test_a_question_that_cannot_be_answered_is_an_error_and_nothing_stays_behind(told):
    asking = Asking(told)
    with pytest.raises(ResourceError, match="too m"):
        asking.module.diff()
    assert asking.loop._tickets == {}


def test_the_timer_process_says_why_it_cannot_answer():
    def refusing(_question, _peer):
        raise ResourceError("too many are waiting")

    sent = []
    channels = SimpleNamespace(send=lambda slot, kind, payload: sent.append((slot, kind, json.loads(payload))))
    agent = SimpleNamespace(answer=refusing, _server=SimpleNamespace(channels=channels))
    _Question(agent, {"id": 7, "question": "diff", "peer": -1}, 3).answer()
    assert sent == [(3, REPLICATION_TOLD, {"id": 7, "error": "too many are waiting"})]


def test_ctl_asks_the_timer_process_and_gets_its_answer():
    module = replication.exports().module
    handlers, resumed = {}, []

    class OneTicket:
        def new_ticket(self):
            return SimpleNamespace(id=7)

        def now(self):
            return 0.0

        def wait(self, ticket, _deadline):
            handlers[REPLICATION_TOLD](json.dumps({"id": ticket.id, "answer": {"peers": []}}).encode(), 1)
            return resumed[-1][1]

        def resume(self, number, value):
            resumed.append((number, value))

    sent = []
    channels = SimpleNamespace(
        on=handlers.__setitem__, send=lambda slot, kind, payload: sent.append((slot, kind, json.loads(payload))) or True
    )
    server = SimpleNamespace(
        role="ctl", channels=channels, loop=OneTicket(), settings=SimpleNamespace(children=2), listeners=[LISTENER]
    )
    module.child_init(server)
    with pytest.raises(UsageError, match="nothing is replicated"):
        module.status()
    server.listeners.append(GROUP)
    assert module.status() == {"peers": []}
    assert sent[0][0] == 2
    assert sent[0][2] == {"id": 7, "question": "status", "peer": -1}
