"""The registrar's script functions on real messages, over the real location table in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.contexts import LISTENER, SECOND, FakeReplies, configure, context, function, request_text, server

from serpy.api import LOCATION, REPLIES, Context, Flow
from serpy.clock import Clock
from serpy.context.avps import FROM_URI, TO_USER
from serpy.errors import BackendError, ResourceError
from serpy.modules import registrar
from serpy.modules import usrloc as usrloc_module
from serpy.shm.counters import Counters
from serpy.shm.record import Binding
from serpy.shm.segment import Segment

NOW = 1_700_000_000.0


class Setup:
    def __init__(self, server_id=0, usrloc=None, **params):
        self.server = server(LISTENER, SECOND)
        self.server.settings = SimpleNamespace(server_id=server_id)
        self.server.segment = Segment(4 * 1024 * 1024)
        self.server.counters = Counters(self.server.segment, 1)
        location = configure(usrloc_module.exports(), self.server, **(usrloc or {}))
        self.replies = FakeReplies()
        self.server.provide(REPLIES, self.replies)
        self.exports = configure(registrar.exports(), self.server, **params)
        location.child_init(self.server)
        self.exports.child_init(self.server)
        self.location = self.server.bind(LOCATION)

    def call(self, name, ctx, *arguments):
        return function(self.exports, name)(ctx, "location", *arguments)

    def save(self, *headers, name="save_contacts", ctx=None, **more):
        ctx = ctx or register(*headers, **more)
        return self.call(name, ctx), ctx

    def add(self, *bindings):
        self.location.update("location", bindings[0].uid, lambda current: (list(bindings), []))

    def contacts(self, uid="bob"):
        return [b.contact for b in self.location.bindings("location", uid)]

    @property
    def answer(self):
        found = self.replies.sent[-1]
        return (found.status, found.reason, [line for line in found.headers if not line.startswith("Date: ")])


def register(*headers, uri="sip:example.com", **more):
    return context(request_text(*headers, method="REGISTER", uri=uri), wall_now=NOW, **more)


def binding(contact="sip:b@192.0.2.9", expires_at=int(NOW) + 600, uid="bob", **more):
    return Binding(uid, contact, expires_at, **more)


def test_a_register_is_answered_with_all_contacts():
    setup = Setup()
    assert setup.save("Contact: <sip:b@192.0.2.9>;q=0.5", "Expires: 600")[0] == 1
    assert setup.answer == (200, "OK", ["Contact: <sip:b@192.0.2.9>;q=0.5;expires=600"])
    setup.save("Contact: <sip:c@192.0.2.9>;expires=120")
    assert setup.answer[2] == ["Contact: <sip:b@192.0.2.9>;q=0.5;expires=600, <sip:c@192.0.2.9>;expires=120"]


def test_a_phone_may_set_its_clock_by_the_answer():
    setup = Setup()
    setup.save("Contact: <sip:b@192.0.2.9>")
    assert setup.replies.sent[-1].headers[-1] == "Date: Tue, 14 Nov 2023 22:13:20 GMT"
    setup.save("Contact: <sip:b@192.0.2.9>;expires=1")
    assert (setup.replies.sent[-1].status, setup.answer[2]) == (423, setup.replies.sent[-1].headers)


def test_a_script_that_adds_the_date_itself_gets_no_second_one():
    setup = Setup()
    ctx = register("Contact: <sip:b@192.0.2.9>")
    ctx.reply_headers.append("Date: Tue, 14 Nov 2023 22:13:20 GMT")
    setup.save(ctx=ctx)
    assert not [line for line in setup.replies.sent[-1].headers if line.startswith("Date")]


@pytest.mark.parametrize("contact", ["<*>", '"x" <*>', "*;q=0.5", "*;expires=0", "<*>;expires=0", "*, *"])
def test_a_star_is_one_only_when_it_stands_alone(contact):
    setup = Setup()
    setup.add(binding())
    assert setup.save(f"Contact: {contact}", "Expires: 0")[0] == 0
    assert setup.answer[0] == 400
    assert setup.contacts() == ["sip:b@192.0.2.9"]


def test_a_register_without_contact_only_asks():
    setup = Setup()
    assert setup.save()[0] == 1
    assert setup.answer == (200, "OK", [])
    setup.add(binding())
    setup.save()
    assert setup.answer == (200, "OK", ["Contact: <sip:b@192.0.2.9>;expires=600"])


def test_star_removes_everything():
    setup = Setup()
    setup.add(binding(), binding("sip:c@h"))
    assert setup.save("Contact: *", "Expires: 0")[0] == 1
    assert setup.answer == (200, "OK", [])
    assert setup.contacts() == []


@pytest.mark.parametrize(
    ("headers", "params", "status", "header"),
    [
        pytest.param(["Contact: <sip:b@h>;expires=30"], {}, 423, "Min-Expires: 60", id="too-brief"),
        pytest.param(["Contact: <sip:b@h>", "Require: path"], {}, 420, "Unsupported: path", id="unknown-extension"),
        pytest.param(["Contact: *", "Expires: 60"], {}, 400, "P-Registrar-Error: ", id="star-with-lifetime"),
        pytest.param(["Contact: <sip:b@h"], {}, 400, "P-Registrar-Error: ", id="malformed-contact"),
        pytest.param(["Contact: <sip:b@h>;q=high"], {}, 400, "P-Registrar-Error: ", id="malformed-q"),
        pytest.param(
            ["Contact: <sip:b@h>, <sip:c@h>"], {"max_contacts": 1}, 503, "P-Registrar-Error: too many", id="too-many"
        ),
    ],
)
def test_a_refused_register_is_answered_and_ends_the_script(headers, params, status, header):
    setup = Setup(**params)
    assert setup.save(*headers)[0] == 0
    assert setup.answer[0] == status
    assert any(line.startswith(header) for line in setup.answer[2])
    assert setup.contacts() == []


def test_brief_intervals_are_raised_silently_when_asked_for():
    setup = Setup(clamp_expires=1, min_expires=240)
    assert setup.save("Contact: <sip:b@h>;expires=30")[0] == 1
    assert setup.answer[2] == ["Contact: <sip:b@h>;expires=240"]


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        pytest.param(ResourceError("the table is full; raise -m"), 503, "Retry-After: 60", id="full"),
        pytest.param(BackendError("secret detail"), 500, "P-Registrar-Error: the binding", id="database"),
    ],
)
def test_trouble_behind_us_is_answered_without_details(error, status, header):
    setup = Setup()

    def update(*_args, **_more):
        raise error

    setup.exports.module._location = SimpleNamespace(update=update)
    assert setup.save("Contact: <sip:b@h>")[0] == 0
    assert setup.answer[0] == status
    assert any(line.startswith(header) for line in setup.answer[2])
    assert not any("secret" in line or "-m" in line for line in setup.answer[2])


def test_a_phone_that_starts_again_after_its_binding_expired_is_registered():
    setup = Setup()
    setup.add(binding("sip:b@192.0.2.9", int(NOW) - 5, call_id="call-1@203.0.113.7", cseq=4711))
    assert setup.save("Contact: <sip:b@192.0.2.9>;expires=600")[0] == 1
    assert setup.answer[:2] == (200, "OK")


@pytest.mark.parametrize("error", [ResourceError("1000 handlers wait already"), BackendError("down")])
def test_a_phone_whose_removal_was_refused_keeps_its_binding(error):
    setup = Setup(usrloc={"db_mode": 1, "db_url": "sqlite:///x"})
    setup.location.table.set_loaded(0, True)
    setup.add(binding())

    def refuse(*_args, **_more):
        raise error

    setup.location.store = SimpleNamespace(write=refuse)
    assert setup.save("Contact: *", "Expires: 0")[0] == 0
    assert setup.answer[0] in (500, 503)
    assert setup.contacts() == ["sip:b@192.0.2.9"]


def test_an_answer_that_cannot_be_sent_is_an_error():
    setup = Setup()
    setup.replies.reply = lambda *_args: False
    assert setup.save("Contact: <sip:b@h>")[0] == -1


@pytest.mark.parametrize(
    ("contact", "result", "code", "value"),
    [
        pytest.param("<sip:b@h>;expires=600", 1, 200, "<sip:b@h>;expires=600", id="done"),
        pytest.param("<sip:b@h>;q=high", -2, 400, None, id="refused"),
    ],
)
@pytest.mark.parametrize("name", ["save_contacts_noreply", "save_mem_nr"])
def test_the_quiet_variants_leave_the_outcome_in_attributes(name, contact, result, code, value):
    setup = Setup()
    returned, ctx = setup.save(f"Contact: {contact}", name=name)
    assert returned == result
    assert setup.replies.sent == []
    assert ctx.avps.newest(FROM_URI, "code") == code
    assert ctx.avps.newest(FROM_URI, "contact") == value


@pytest.mark.parametrize(
    ("name", "flags"), [("save_memory", Binding.MEM), ("save_mem_nr", Binding.MEM), ("save_contacts", 0), ("save", 0)]
)
def test_memory_variants_mark_the_binding(name, flags):
    setup = Setup()
    setup.save("Contact: <sip:b@h>", name=name)
    assert setup.location.bindings("location", "bob")[0].flags & Binding.MEM == flags


@pytest.mark.parametrize(
    ("value", "stored"),
    [pytest.param("7", 7, id="number"), pytest.param("x", 3, id="nonsense"), pytest.param(None, 3, id="absent")],
)
def test_the_owner_of_a_replica(value, stored):
    setup = Setup(server_id=3)
    ctx = register("Contact: <sip:b@h>")
    if value is not None:
        ctx.avps.add(FROM_URI, "server_id", value)
    setup.save(ctx=ctx, name="save_mem_nr")
    assert setup.location.bindings("location", "bob")[0].server_id == stored


def test_our_own_replica_is_ignored():
    setup = Setup(server_id=3)
    ctx = register("Contact: <sip:b@h>")
    ctx.avps.add(FROM_URI, "server_id", "3")
    assert setup.save(ctx=ctx, name="save_mem_nr")[0] == 1
    assert setup.contacts() == []


@pytest.mark.parametrize(
    ("uid", "name", "stored"),
    [
        pytest.param("u-1", "save_contacts", "u-1", id="attribute"),
        pytest.param(None, "save_contacts", "bob", id="user-of-to"),
        pytest.param("a%40b", "save_mem_nr", "a@b", id="unescaped-in-a-replica"),
        pytest.param("a%40b", "save_contacts", "a%40b", id="as-it-is-elsewhere"),
    ],
)
def test_whose_contacts_they_are(uid, name, stored):
    setup = Setup()
    ctx = register("Contact: <sip:b@h>")
    if uid:
        ctx.avps.add(TO_USER, "uid", uid)
    setup.save(ctx=ctx, name=name)
    assert setup.contacts(stored) == ["sip:b@h"]
    assert ctx.avps.newest(TO_USER, "uid") == (uid or stored)


def test_a_natted_phone_is_remembered_and_called_where_it_came_from():
    setup = Setup()
    ctx = register("Contact: <sip:b@10.0.0.1>", flow=Flow(SECOND, "203.0.113.9", 40000))
    ctx.flags = 1 << 4
    setup.save(ctx=ctx)
    received = "sip:203.0.113.9:40000;dstip=198.51.100.1;dstport=5060"
    assert setup.answer[2][0].endswith(f';received="{received}"')
    call = context(request_text(uri="sip:bob@example.com"), wall_now=NOW)
    assert setup.call("lookup_contacts", call) == 1
    assert (call.request_uri, call.dst_uri, call.send_listener, call.flags) == (
        "sip:b@10.0.0.1",
        received,
        SECOND,
        1 << 4,
    )


def test_the_source_of_a_tcp_connection_names_its_transport():
    setup = Setup()
    ctx = Context(register("Contact: <sip:b@h>").message, Flow(registrar_tls(), "2001:db8::9", 40000), Clock(1.0, NOW))
    ctx.flags = 1 << 4
    setup.save(ctx=ctx)
    assert setup.location.bindings("location", "bob")[0].received == (
        "sip:[2001:db8::9]:40000;transport=tls;dstip=[2001:db8::1];dstport=5061"
    )


def registrar_tls():
    from serpy.api import Listener

    return Listener(2, "tls", "2001:db8::1", 5061)


def invite(uri="sip:Bob@example.com"):
    return context(request_text(uri=uri), wall_now=NOW)


def test_lookup_forks_to_all_live_contacts_in_order():
    setup = Setup()
    setup.add(
        binding("sip:low@h", q=100),
        binding("sip:high@h", q=900),
        binding("sip:gone@h", expires_at=int(NOW) - 1, q=1000),
    )
    ctx = invite()
    assert setup.call("lookup", ctx) == 1
    assert (ctx.request_uri, ctx.q, [t.request_uri for t in ctx.branches]) == ("sip:high@h", 900, ["sip:low@h"])
    assert [t.request_uri for t in ctx.targets()] == ["sip:high@h", "sip:low@h"]


def test_lookup_takes_the_first_only_when_branches_are_off():
    setup = Setup(append_branches=0)
    setup.add(binding("sip:low@h", q=100), binding("sip:high@h", q=900))
    ctx = invite()
    setup.call("lookup", ctx)
    assert (ctx.request_uri, ctx.branches) == ("sip:high@h", [])


def test_lookup_never_makes_more_targets_than_can_be_forked():
    setup = Setup()
    setup.add(*[binding(f"sip:{n}@h") for n in range(30)])
    ctx = invite()
    setup.call("lookup", ctx)
    assert len(ctx.targets()) == 12


def test_the_source_can_be_put_into_the_request_uri():
    setup = Setup(received_to_uri=1)
    setup.add(binding(received="sip:1.2.3.4:5"))
    ctx = invite()
    setup.call("lookup", ctx)
    assert (ctx.request_uri, ctx.dst_uri) == ('sip:b@192.0.2.9;received="sip:1.2.3.4:5"', "")


@pytest.mark.parametrize(
    ("uri", "bindings", "result"),
    [
        pytest.param("sip:example.com", [], -1, id="no-uid"),
        pytest.param("sip:bob@example.com", [], -3, id="no-record"),
        pytest.param("sip:bob@example.com", [binding(expires_at=1)], -5, id="all-expired"),
        pytest.param("sip:bob@example.com", [binding(expires_at=1, flags=128)], 1, id="permanent"),
        pytest.param("sip:%00b@example.com", [], -4, id="bad-uri"),
    ],
)
def test_lookup_results(uri, bindings, result):
    setup = Setup()
    if bindings:
        setup.add(*bindings)
    assert setup.call("lookup_contacts", invite(uri)) == result
    assert setup.call("registered", invite(uri)) == (1 if result == 1 else -1)


def test_lookup_says_so_when_the_database_is_down():
    setup = Setup()

    def bindings(*_args):
        raise BackendError("down")

    setup.exports.module._location = SimpleNamespace(bindings=bindings)
    assert setup.call("lookup", invite()) == -2
    assert setup.call("registered", invite()) == -1


def test_an_aor_narrows_lookup_and_answer():
    setup = Setup()
    setup.save("Contact: <sip:one@h>")
    ctx = register("Contact: <sip:two@h>;expires=600")
    assert setup.call("save_contacts", ctx, "sip:alias@example.com") == 1
    assert setup.answer[2] == ["Contact: <sip:two@h>;expires=600"]
    found = invite()
    setup.call("lookup", found, "sip:alias@example.com")
    assert [t.request_uri for t in found.targets()] == ["sip:two@h"]


@pytest.mark.parametrize("name", ["default_expires", "max_contacts", "default_q", "aor_attr"])
def test_parameters_are_checked(name):
    param = next(p for p in registrar.exports().params if p.name == name)
    assert param.check(-7 if param.kind == "int" else "not an attribute!")
    assert not param.check(param.default)
