"""Which requests belong to a dialog: the rule, request by request, against the memory of one call."""

import pytest
from support.contexts import LISTENER, FakeReplies, configure, context, function, sent_values, server

from serpy.api import CALLS, DIALOG_WATCHER, REPLIES, Authenticated, Flow, Target
from serpy.context.avps import FROM_URI, GLOBAL
from serpy.modules import rr
from serpy.modules.rr.cookie import DIALOG_COOKIE
from serpy.net.loop import Loop
from serpy.sip.message import Edits
from serpy.sip.parser import parse_message

NOW = 1_700_000_000.0
ALICE = Flow(LISTENER, "203.0.113.7", 5062)
BOB = Flow(LISTENER, "198.51.100.9", 5070)
MALLORY = Flow(LISTENER, "192.0.2.66", 5060)
GATEWAY = Flow(LISTENER, "192.0.2.99", 5060)
STRANGE, ELSEWHERE = -2, -3


class Call:
    """One dialog of alice with bob through a server that remembers it. ``loop`` is the clock."""

    def __init__(self, *, run_dir="", method="INVITE", server_of=None, **parameters):
        self.server = server_of or server(LISTENER, run_dir=str(run_dir))
        self.server.loop = self.loop = Loop()
        self.server.started_wall = NOW
        self.server.role, self.server.child = "udp receiver", 0
        self.replies = FakeReplies()
        self.server.provide(REPLIES, self.replies)
        self.now = NOW
        self.method = method
        self.parameters = {"cookie_secret": "s3cret", "append_fromtag": 0} | parameters
        self.exports = configure(rr.exports(), self.server, **self.parameters)
        self.exports.child_init(self.server)
        self.watcher = self.server.find(DIALOG_WATCHER)
        self.bob_tag = "b1"
        self.bob_contact = "<sip:bob@198.51.100.9:5070>"
        self.gateway = ""
        self.first = None
        self.route = ""

    @property
    def now(self):
        return self.loop.wall_now()

    @now.setter
    def now(self, wall):
        self.loop._wall_offset = wall - self.loop.now()

    def restart(self, run_dir):
        """The same call in a server that was started again."""
        again = Call(run_dir=run_dir, **self.parameters)
        again.first, again.route, again.now, again.method = self.first, self.route, self.now, self.method
        return again

    def text(self, method, uri, *headers, from_="a1", to="", cseq=1, call_id="call-1", vias=1, body=""):
        tag = f";tag={to}" if to else ""
        via = [f"Via: SIP/2.0/UDP 203.0.113.{n + 7}:5062;branch=z9hG4bKabc" for n in range(vias)]
        lines = [
            f"{method} {uri} SIP/2.0", *via, f"From: <sip:x@example.com>;tag={from_}", f"To: <sip:y@example.com>{tag}",
            f"Call-ID: {call_id}", f"CSeq: {cseq} {method}", *headers, f"Content-Length: {len(body)}", "", body,
        ]  # fmt: skip
        return "\r\n".join(lines)

    def invite(self, *headers, flow=ALICE, to=BOB, contact="<sip:alice@203.0.113.7:5062>", named=True, vias=1):
        """alice's first request leaves for *to*; the Record-Route it carries is kept as a Route."""
        ctx = context(
            self.text(self.method, "sip:bob@example.com", f"Contact: {contact}", *headers, vias=vias),
            flow=flow, wall_now=self.now,
        )  # fmt: skip
        if named:
            ctx.authenticated = Authenticated("alice", "example.com")
        if self.gateway:
            ctx.avps.add(GLOBAL, "gw_ip", self.gateway)
        ctx.avps.add(FROM_URI, "dialog_id", "d-1", DIALOG_COOKIE)
        assert function(self.exports, "record_route")(ctx) == 1
        self.first = ctx
        self.leaves(to)
        return self

    def leaves(self, to):
        lines = [line for render in self.first.per_branch_headers for line in render(self.first, to)]
        self.route = f"Route: {lines[-1].partition(': ')[2]}"

    def answer(self, status, *headers, ctx=None, flow=BOB, tag=None, contact=None, from_=None, edits=None):
        """What bob says to *ctx*, the first request when not given."""
        ctx = ctx or self.first
        request = ctx.request
        lines = [
            f"SIP/2.0 {status} X", "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", f"From: <sip:x@example.com>;tag={from_ or request.from_tag}",
            f"To: <sip:y@example.com>;tag={tag or request.to_tag or self.bob_tag}", f"Call-ID: {request.call_id}",
            f"CSeq: {request.cseq.number} {request.method}",
        ]  # fmt: skip
        if contact != "":
            lines.append(f"Contact: {contact or self.bob_contact}")
        response = parse_message("\r\n".join([*lines, *headers, "Content-Length: 0", "", ""]).encode())
        if status < 300:
            self.watcher.answered(ctx.dialog, ctx, response, edits or Edits(), flow)
        if status >= 200 and (request.method != "INVITE" or status >= 300):
            self.watcher.ended(ctx.dialog, request, status)
        return self

    def ask(self, method, uri, *headers, up=False, flow=None, tags=None, route=None, proven=False, call_id="call-1"):
        """What loose_route() says to a request in the dialog, and its context."""
        from_, to = tags or ((self.bob_tag, "a1") if up else ("a1", self.bob_tag))
        text = self.text(
            method,
            uri,
            *([route or self.route] if route != "" else []),
            *headers,
            from_=from_,
            to=to,
            cseq=2,
            call_id=call_id,
        )
        ctx = context(text, flow=flow or (BOB if up else ALICE), wall_now=self.now)
        if proven:
            ctx.authenticated = Authenticated("alice", "example.com")
        return function(self.exports, "loose_route")(ctx), ctx

    def says(self, *arguments, **options):
        return self.ask(*arguments, **options)[0]


def answered(**options):
    return Call(**options).invite().answer(180).answer(200)


TO_BOB = "sip:bob@198.51.100.9:5070"
TO_ALICE = "sip:alice@203.0.113.7:5062"


@pytest.mark.parametrize(
    "method", ["ACK", "BYE", "INVITE", "UPDATE", "INFO", "MESSAGE", "REFER", "OPTIONS", "SUBSCRIBE", "NOTIFY", "PRACK"]
)
@pytest.mark.parametrize("up", [False, True], ids=["caller", "callee"])
def test_either_party_may_ask_the_other_anything_that_belongs_into_a_dialog(method, up):
    call = answered()
    said, ctx = call.ask(method, TO_ALICE if up else TO_BOB, up=up)
    assert said == 1
    assert ctx.avps.newest(FROM_URI, "dialog_id") == "d-1"
    assert ctx.dialog


FORGED = [
    pytest.param({"method": "REGISTER"}, id="a-method-that-is-in-no-dialog"),
    pytest.param({"method": "PUBLISH"}, id="another-one"),
    pytest.param({"tags": ("a1", "wrong")}, id="the-callee's-tag-is-wrong"),
    pytest.param({"tags": ("wrong", "b1")}, id="the-caller's-tag-is-wrong"),
    pytest.param({"tags": ("b1", "b1")}, id="the-callee-twice"),
    pytest.param({"tags": ("wrong", "a1"), "up": True, "uri": TO_ALICE}, id="somebody-to-the-caller"),
    pytest.param({"uri": "sip:anybody@192.0.2.66"}, id="another-target"),
    pytest.param({"uri": "sip:bob@198.51.100.9:5071"}, id="another-port"),
    pytest.param({"uri": "sip:bob@198.51.100.9:5070;maddr=192.0.2.66"}, id="another-address-by-maddr"),
    pytest.param({"uri": TO_ALICE}, id="back-to-the-caller"),
    pytest.param({"uri": TO_BOB, "more": ", <sip:192.0.2.66;lr>"}, id="another-way"),
    pytest.param({"call_id": "call-2"}, id="the-cookie-of-another-dialog"),
    pytest.param({"flow": MALLORY}, id="from-elsewhere"),
    pytest.param({"flow": MALLORY, "up": True, "uri": TO_ALICE}, id="to-the-caller-from-elsewhere"),
    pytest.param({"route": "Route: <sip:192.0.2.1:5060;lr>"}, id="no-cookie"),
    pytest.param({"route": "Route: <sip:192.0.2.1:5060;avp=AAAAAAAAAAAA8AAAAAAAAAAAAAAAAAAAAAA;lr>"}, id="an-invented-cookie"),
]  # fmt: skip


@pytest.mark.parametrize("changed", FORGED)
@pytest.mark.parametrize("method", ["INVITE", "BYE", "ACK"])
def test_nobody_else_gets_through(changed, method):
    call = answered()
    changed = {"uri": TO_BOB} | changed
    route = changed.pop("route", call.route) + changed.pop("more", "")
    said, ctx = call.ask(changed.pop("method", method), changed.pop("uri"), route=route, **changed)
    assert said in ((0,) if ctx.message.method == "ACK" else (STRANGE, ELSEWHERE))
    assert not ctx.avps
    assert not ctx.dialog
    assert sent_values(ctx, "Route") == [route.removeprefix("Route: ")]


def test_a_phone_that_has_moved_may_prove_who_it_is():
    call = answered()
    assert call.says("INVITE", TO_BOB, flow=MALLORY) == ELSEWHERE
    assert call.says("INVITE", TO_BOB, flow=MALLORY, proven=True) == 1
    assert call.says("ACK", TO_BOB, flow=MALLORY) == 1
    assert call.says("BYE", TO_ALICE, up=True) == 1


def test_where_a_request_comes_from_need_not_matter():
    assert answered(source_check=0).says("BYE", TO_BOB, flow=MALLORY) == 1


def test_a_nat_that_changes_ports_and_a_new_connection_are_the_same_phone():
    call = answered()
    moved = Flow(LISTENER, ALICE.host, 40_000)
    assert call.says("INFO", TO_BOB, flow=moved) == 1
    assert call.says("BYE", f"sip:whatever@{ALICE.host}:40000", up=True) == 1


def test_of_a_side_behind_other_proxies_any_address_will_do():
    call = Call().invite(vias=2).answer(200)
    assert call.says("BYE", TO_BOB, flow=MALLORY) == 1


def test_the_next_proxy_of_either_side_is_a_way():
    call = Call()
    call.invite("Record-Route: <sip:edge.example.net;lr>")
    ours = call.route.removeprefix("Route: ")
    call.answer(200, f"Record-Route: <sip:far.example.org:5066;lr>, {ours}", "Record-Route: <sip:edge.example.net;lr>")
    down = f"{call.route}, <sip:far.example.org:5066;lr>"
    up = f"{call.route}, <sip:edge.example.net;lr>"
    assert call.says("BYE", TO_BOB, route=down) == 1
    assert call.says("BYE", TO_ALICE, up=True, route=up) == 1
    assert call.says("BYE", TO_ALICE, up=True, route=down) == STRANGE


def test_a_contact_counts_as_it_left_us():
    call = Call().invite(contact="<sip:alice@10.0.0.1:5060>")
    edits = Edits()
    response_contact = "<sip:bob@192.168.1.10:5060>"
    call.answer(183, contact=response_contact)
    edits.replace(6, "Contact: <sip:bob@198.51.100.9:5070;alias=1>")
    call.answer(200, contact=response_contact, edits=edits)
    assert call.says("BYE", "sip:bob@198.51.100.9:5070") == 1


def test_a_new_contact_counts_from_its_2xx_on_and_the_one_before_too():
    call = answered()
    new = "sip:alice@203.0.113.7:5099"
    said, update = call.ask("UPDATE", TO_BOB, f"Contact: <{new}>")
    assert said == 1
    assert call.says("BYE", new, up=True) == STRANGE
    call.answer(200, ctx=update)
    assert call.says("INFO", new, up=True) == 1
    assert call.says("INFO", TO_ALICE, up=True) == 1
    said, invite = call.ask("INVITE", TO_ALICE, "Contact: <sip:bob@198.51.100.10>", up=True)
    call.answer(200, ctx=invite, flow=ALICE, tag="a1", contact=f"<{new}>")
    assert call.says("INFO", "sip:bob@198.51.100.10") == 1
    assert call.says("INFO", TO_BOB) == 1


def test_a_refused_refresh_changes_nothing():
    call = answered()
    _, update = call.ask("UPDATE", TO_BOB, "Contact: <sip:alice@203.0.113.7:5099>")
    call.answer(488, ctx=update)
    assert call.says("BYE", "sip:alice@203.0.113.7:5099", up=True) == STRANGE


def test_a_call_that_is_forwarded_without_a_transaction_is_learnt_from_its_answers():
    call = Call().invite()
    ours = call.route.removeprefix("Route: ")
    assert call.says("ACK", TO_BOB) == 0
    lines = [
        "SIP/2.0 200 OK", "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", "From: <sip:x@example.com>;tag=a1",
        "To: <sip:y@example.com>;tag=b1", "Call-ID: call-1", "CSeq: 1 INVITE", f"Record-Route: {ours}", f"Contact: <{TO_BOB}>", "", "",
    ]  # fmt: skip
    call.watcher.passed(parse_message("\r\n".join(lines).encode()), Edits(), BOB)
    assert call.says("ACK", TO_BOB) == 1
    assert call.says("BYE", TO_ALICE, up=True) == 1


def test_each_phone_that_rings_or_answers_is_a_leg():
    call = Call().invite()
    for number in range(12):
        flow = Flow(LISTENER, f"198.51.100.{number + 20}", 5060)
        call.leaves(flow)
    for number in range(12):
        flow = Flow(LISTENER, f"198.51.100.{number + 20}", 5060)
        call.answer(180, flow=flow, tag=f"t{number}", contact=f"<sip:bob@{flow.host}>")
    for number in range(12):
        assert call.says("PRACK", f"sip:bob@198.51.100.{number + 20}", tags=("a1", f"t{number}")) == 1
    assert call.says("PRACK", "sip:bob@198.51.100.20", tags=("a1", "t3")) == STRANGE


def test_forked_200s_are_two_calls_and_the_last_bye_ends_the_record():
    call = Call().invite()
    for tag in ("b1", "b2"):
        call.answer(200, tag=tag, contact=f"<sip:{tag}@198.51.100.9:5070>")
    assert call.says("ACK", "sip:b2@198.51.100.9:5070", tags=("a1", "b2")) == 1
    _, bye = call.ask("BYE", "sip:b2@198.51.100.9:5070", tags=("a1", "b2"))
    call.answer(200, ctx=bye)
    call.now += 3600
    assert call.says("INFO", "sip:b1@198.51.100.9:5070") == 1
    _, bye = call.ask("BYE", "sip:b1@198.51.100.9:5070")
    call.answer(481, ctx=bye)
    assert call.says("BYE", "sip:b1@198.51.100.9:5070") == 1  # a repetition
    call.now += 33
    assert call.says("INFO", "sip:b1@198.51.100.9:5070", flow=MALLORY) == STRANGE


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("NOTIFY", 1),
        ("PRACK", 1),
        ("UPDATE", 1),
        ("BYE", STRANGE),
        ("INVITE", STRANGE),
        ("INFO", STRANGE),
        ("MESSAGE", STRANGE),
    ],
)
def test_some_requests_may_be_the_first_that_is_heard_of_a_phone(method, said):
    call = Call(method="SUBSCRIBE").invite()
    assert call.says(method, TO_ALICE, up=True, tags=("new", "a1"), flow=MALLORY) == STRANGE
    assert call.says(method, TO_ALICE, up=True, tags=("new", "a1")) == said
    assert call.says("BYE", "sip:x@192.0.2.66", up=True, tags=("newer", "a1")) == STRANGE


def test_long_after_the_answer_no_new_phone_is_heard_of():
    call = answered()
    call.now += 33
    assert call.says("BYE", TO_ALICE, up=True, tags=("new", "a1")) == STRANGE


def test_with_the_gateway_only_its_contact_may_be_asked_for():
    call = Call()
    call.gateway = GATEWAY.host
    call.invite(to=GATEWAY).answer(200, flow=GATEWAY, contact="<sip:0900@192.0.2.99>")
    assert call.says("BYE", "sip:0900@192.0.2.99") == 1
    assert call.says("INVITE", "sip:0900666@192.0.2.99") == STRANGE


def test_of_several_phones_the_one_in_the_call_is_asked():
    call = answered()
    _, ack = call.ask("INFO", TO_BOB)
    keep = function(call.exports, "keep_dialog_targets")
    others = [
        Target("sip:bob@198.51.100.9:5071"),
        Target(TO_BOB, listener=LISTENER),
        Target("sip:bob@10.0.0.1", "sip:198.51.100.9:5070"),
    ]
    ack.request_uri, ack.branches = "sip:bob@192.0.2.66", others
    assert keep(ack) == 1
    assert [target.request_uri for target in ack.targets()] == [TO_BOB, "sip:bob@10.0.0.1"]
    ack.request_uri, ack.dst_uri, ack.branches = "sip:bob@192.0.2.66", "", others[:1]
    assert keep(ack) == -1
    assert len(ack.targets()) == 2
    assert keep(context(call.text("INFO", TO_BOB), flow=ALICE)) == -1


# its life


def test_a_call_that_nobody_answers_is_forgotten():
    call = Call().invite(named=False).answer(180)
    call.now += 239
    assert call.says("PRACK", TO_BOB) == 1
    call.now += 10
    assert call.says("PRACK", TO_BOB) == STRANGE


def test_a_refused_call_is_over_after_32_seconds():
    call = Call().invite(named=False).answer(180).answer(486)
    call.now += 33
    assert call.says("INVITE", TO_BOB) == STRANGE


@pytest.mark.parametrize(("headers", "lives"), [((), 12 * 3600), (("Session-Expires: 1800;refresher=uac",), 1832)])
def test_an_answered_call_lives_as_long_as_it_is_refreshed(headers, lives):
    call = Call().invite(named=False).answer(200, *headers)
    call.now += lives - 1
    _, refresh = call.ask("INVITE", TO_BOB, "Contact: <sip:alice@203.0.113.7:5062>")
    call.answer(200, *headers, ctx=refresh)
    call.now += lives - 1
    assert call.says("BYE", TO_BOB) == 1
    call.now += lives + 13 * 3600
    assert call.says("BYE", TO_BOB) == STRANGE


def test_a_subscription_lives_as_long_as_was_granted():
    call = Call(method="SUBSCRIBE").invite(named=False).answer(200, "Expires: 600")
    call.now += 631
    assert call.says("NOTIFY", TO_ALICE, "Subscription-State: active;expires=500", up=True) == 1
    call.now += 30
    assert call.says("SUBSCRIBE", TO_BOB) == STRANGE


def test_who_has_transferred_the_call_hears_how_it_went_after_hanging_up():
    call = answered()
    _, refer = call.ask("REFER", TO_BOB)
    call.answer(202, ctx=refer)
    _, bye = call.ask("BYE", TO_BOB)
    call.answer(200, ctx=bye)
    call.now += 120
    assert call.says("NOTIFY", TO_ALICE, up=True) == 1


def test_a_restart_forgets_nothing(tmp_path):
    call = answered(run_dir=tmp_path)
    again = call.restart(tmp_path)
    assert again.says("BYE", TO_BOB) == 1
    assert again.says("BYE", "sip:x@192.0.2.66") == STRANGE


# without a record


def alone(**options):
    """A call whose record is lost: another server with the same secret knows the cookie alone."""
    call = Call().invite(**options).answer(200)
    return call.restart("")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param({"uri": TO_ALICE, "up": True}, 1, id="to-the-caller"),
        pytest.param({"uri": "sip:x@192.0.2.66", "up": True}, STRANGE, id="to-somebody-else"),
        pytest.param({"uri": TO_ALICE, "up": True, "more": ", <sip:192.0.2.66;lr>"}, STRANGE, id="by-another-way"),
        pytest.param({"uri": TO_BOB}, 1, id="from-the-caller"),
        pytest.param({"uri": TO_BOB, "flow": MALLORY}, STRANGE, id="from-somebody-else"),
        pytest.param({"uri": TO_BOB, "tags": ("x", "b1")}, STRANGE, id="with-another-tag"),
    ],
)
def test_a_cookie_without_a_record_opens_the_way_to_and_from_the_caller(asked, said):
    call = alone()
    asked = dict(asked)
    route = call.route + asked.pop("more", "")
    assert call.says("BYE", asked.pop("uri"), route=route, **asked) == said


def test_the_cookie_of_a_stranger_without_a_record_is_no_way_down():
    assert alone(named=False).says("BYE", TO_BOB) == STRANGE


def test_a_cookie_alone_counts_for_twelve_hours():
    call = alone()
    call.now += 12 * 3600 + 61
    assert call.says("BYE", TO_ALICE, up=True) == STRANGE


def test_when_there_is_no_room_calls_live_by_their_cookies():
    call = Call(max_calls=64)
    for _ in range(64):
        call.invite()
        call.answer(200)
    call.invite()
    assert call.says("BYE", TO_BOB) == 1


def test_calls_that_the_version_before_has_let_in_go_on_for_twelve_hours(tmp_path):
    call = Call(run_dir=tmp_path)
    old = configure(rr.exports(), server(LISTENER), cookie_secret="s3cret", dialogs=0, append_fromtag=0)
    ctx = context(call.text("INVITE", "sip:bob@example.com"), flow=ALICE, wall_now=NOW)
    ctx.avps.add(FROM_URI, "dialog_id", "d-0", DIALOG_COOKIE)
    function(old, "record_route")(ctx)
    route = f"Route: {sent_values(ctx, 'Record-Route')[0]}"
    said, bye = call.ask("BYE", TO_BOB, route=route)
    assert (said, bye.avps.newest(FROM_URI, "dialog_id")) == (1, "d-0")
    assert call.says("BYE", TO_BOB, route=route, call_id="call-2") == STRANGE
    assert call.says("REGISTER", TO_BOB, route=route) == STRANGE
    call.now += 12 * 3600
    assert call.says("BYE", TO_BOB, route=route) == STRANGE


# what can only come in a dialog


@pytest.mark.parametrize(
    ("method", "options", "goes_on", "answered"),
    [
        ("ACK", {"route": "", "tags": ("a1", "")}, False, []),
        ("ACK", {"route": ""}, False, []),
        ("ACK", {}, True, []),
        ("ACK", {"tags": ("a1", "")}, False, []),
        ("BYE", {"route": "", "tags": ("a1", "")}, False, [481]),
        ("PRACK", {"route": "", "tags": ("a1", "")}, False, [481]),
        ("UPDATE", {"route": "", "tags": ("a1", "")}, False, [481]),
        ("MESSAGE", {"route": "", "tags": ("a1", "")}, True, []),
        ("BYE", {}, True, []),
        ("CANCEL", {"route": "", "tags": ("a1", "")}, True, []),
    ],
)
def test_before_the_script(method, options, goes_on, answered):
    call = globals()["answered"]()
    from_, to = options.get("tags", ("a1", "b1"))
    text = call.text(method, TO_BOB, *([call.route] if "route" not in options else []), from_=from_, to=to)
    ctx = context(text, flow=ALICE, wall_now=call.now)
    hook = call.server.hooks.pre_script[0]
    assert hook(ctx) is goes_on
    assert [reply.status for reply in call.replies.sent] == answered


def test_a_stray_ack_may_be_left_to_the_script():
    call = answered(stray_ack="pass")
    ctx = context(call.text("ACK", TO_BOB, from_="a1"), flow=ALICE, wall_now=call.now)
    assert call.server.hooks.pre_script[0](ctx)
    assert call.says("ACK", "sip:x@192.0.2.66") == STRANGE


@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE", "REFER"])
@pytest.mark.parametrize(
    ("headers", "tags", "answered"),
    [
        pytest.param((), ("a1", ""), [(400, "No Contact")], id="none"),
        pytest.param(("Contact: <sip:alice@203.0.113.7:5062>",), ("a1", ""), [], id="one"),
        pytest.param(("m: <sip:alice@203.0.113.7:5062>",), ("a1", ""), [], id="compact"),
        pytest.param((), ("a1", "b1"), [], id="none-in-a-dialog-leaves-the-target"),
        pytest.param((), ("", ""), [], id="a-phone-before-rfc-3261-has-no-tag"),
    ],
)
def test_who_begins_a_dialog_says_where_it_goes_on(method, headers, tags, answered):
    """RFC 3261 section 8.1.1.8; the target of a dialog stays what it is without one (section 12.2)."""
    call = Call()
    text = call.text(method, "sip:bob@example.com", *headers, from_=tags[0], to=tags[1]).replace(";tag=\r\n", "\r\n")
    [before] = call.server.hooks.pre_script
    assert before(context(text, flow=ALICE, wall_now=call.now)) is not bool(answered)
    assert [(sent.status, sent.reason) for sent in call.replies.sent] == answered


def test_a_route_before_the_dialog_opens_nothing_and_is_followed():
    call = answered()
    ctx = context(call.text("INVITE", "sip:x@192.0.2.66", call.route), flow=ALICE, wall_now=call.now)
    assert function(call.exports, "loose_route")(ctx) == 1
    assert not ctx.avps


@pytest.mark.parametrize("times", [1, 2])
def test_a_phone_that_puts_its_outbound_proxy_before_its_route_set(times):
    call = answered()
    route = "Route: " + "<sip:192.0.2.1:5060;lr>, " * times + call.route.removeprefix("Route: ")
    said, ctx = call.ask("BYE", TO_BOB, route=route)
    assert said == 1
    assert sent_values(ctx, "Route") == []


def test_a_spiral_has_two_records():
    call = Call().invite(to=Flow(LISTENER, "192.0.2.1", 5060))
    first = call.route
    call.invite(flow=Flow(LISTENER, "192.0.2.1", 5060), vias=2)
    assert call.route != first
    call.answer(200)
    assert call.says("BYE", TO_BOB, flow=Flow(LISTENER, "192.0.2.1", 5060)) == 1


def test_between_the_two_records_of_a_spiral_stands_a_proxy():
    call = Call().invite()
    first, first_ctx = call.route.removeprefix("Route: "), call.first
    call.invite(f"Record-Route: <sip:x.example.net;lr>, {first}", flow=MALLORY, vias=3)
    second = call.route.removeprefix("Route: ")
    assert first != second
    call.answer(200, f"Record-Route: {second}, <sip:x.example.net;lr>, {first}")
    call.answer(200, f"Record-Route: {second}, <sip:x.example.net;lr>, {first}", ctx=first_ctx)
    route = f"Route: {first}, <sip:x.example.net;lr>, {second}"
    assert call.says("BYE", TO_BOB, route=route) == 1
    assert call.says("BYE", TO_BOB, route=f"Route: {first}, <sip:y.example.net;lr>") == STRANGE
    assert call.says("BYE", TO_ALICE, up=True, route=f"Route: {second}, <sip:x.example.net;lr>, {first}") == 1


def test_bye_to_one_phone_that_rings_leaves_the_others_alone():
    call = Call().invite().answer(180, tag="b1").answer(180, tag="b2")
    _, bye = call.ask("BYE", TO_BOB)
    call.answer(200, ctx=bye)
    call.now += 100
    assert call.says("PRACK", TO_BOB, tags=("a1", "b2")) == 1


def test_in_a_dialog_the_same_cookie_is_written_again():
    call = answered()
    said, ctx = call.ask("INVITE", TO_BOB)
    assert said == 1
    function(call.exports, "record_route")(ctx)
    assert sent_values(ctx, "Record-Route") == [call.route.removeprefix("Route: ")]


def test_methods_that_begin_no_dialog_get_no_cookie():
    call = Call()
    ctx = context(call.text("MESSAGE", "sip:bob@example.com"), flow=ALICE, wall_now=NOW)
    ctx.avps.add(FROM_URI, "dialog_id", "d-1", DIALOG_COOKIE)
    function(call.exports, "record_route")(ctx)
    assert sent_values(ctx, "Record-Route") == ["<sip:192.0.2.1:5060;lr>"]


# call_limit(), durations, RPCs


def begin(call, key, limit):
    ctx = context(call.text("INVITE", "sip:bob@example.com", call_id=f"c{call.now}"), flow=ALICE, wall_now=call.now)
    call.now += 1
    allowed = function(call.exports, "call_limit")(ctx, "user", key, limit) > 0
    if allowed:
        function(call.exports, "record_route")(ctx)
        call.first = ctx
        call.leaves(BOB)
        call.answer(200)
    return allowed


def test_calls_are_limited_until_one_ends():
    call = Call()
    assert [begin(call, "alice", 2) for _ in range(3)] == [True, True, False]
    assert begin(call, "bob", 2)
    assert not begin(call, "bob", 1)
    _, bye = call.ask("BYE", TO_BOB, call_id=call.first.message.call_id)
    call.answer(200, ctx=bye)
    assert begin(call, "bob", 1)
    call.now += 13 * 3600
    assert begin(call, "alice", 2)


def test_a_restart_counts_the_calls_that_are_there(tmp_path):
    call = Call(run_dir=tmp_path)
    assert begin(call, "alice", 1)
    assert not begin(call.restart(tmp_path), "alice", 1)


def test_how_long_a_call_has_lasted():
    call = answered()
    calls = call.server.find(CALLS)
    call.now += 90
    assert calls.duration(call.first.dialog, call.now) == 90
    assert calls.duration(0, call.now) == -1
    assert calls.duration(call.first.dialog + 1, call.now) == -1


def rpc(call, name, *arguments):
    return next(each.call for each in call.exports.rpc if each.name == name)(*arguments)


def test_receivers_number_their_calls_differently():
    call = Call()
    first = call.watcher._serial
    call.exports.child_init(call.server)
    assert call.watcher._serial != first


def test_calls_are_listed_and_shown(monkeypatch):
    call = answered()
    monkeypatch.setattr("time.time", lambda: NOW + 5)
    (row,) = rpc(call, "calls.list")
    assert (row["state"], row["caller"], row["callee"], row["seconds"]) == (
        "answered",
        "sip:x@example.com",
        "sip:y@example.com",
        5,
    )
    (shown,) = rpc(call, "calls.show", row["id"])
    assert shown["legs"] == ["answered"]
    assert shown["named"] == 1
    assert rpc(call, "calls.show", "call-1") == [shown]
    assert rpc(call, "calls.list", "nobody") == []
    with pytest.raises(rr.rpc.CallFaultError):
        rpc(call, "calls.show", "x")


def test_without_dialogs_nothing_is_remembered():
    exports = configure(rr.exports(), server(LISTENER), cookie_secret="s", dialogs=0)
    with pytest.raises(rr.rpc.CallFaultError):
        next(each.call for each in exports.rpc if each.name == "calls.list")()
