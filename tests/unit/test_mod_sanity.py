"""Each check behind its bit; a bad message is answered once and the script ends."""

import pytest
from support.contexts import FakeReplies, configure, context, function, reply_text, request_text, server

from serpy.api import REPLIES
from serpy.modules import sanity


def run(text, *args, **parameters):
    one = server()
    replies = FakeReplies()
    one.provide(REPLIES, replies)
    exports = configure(sanity.exports(), one, **parameters)
    return function(exports, "sanity_check")(context(text), *args), [(r.status, r.headers) for r in replies.sent]


def without(header):
    return "\r\n".join(line for line in request_text().split("\r\n") if not line.startswith(header))


@pytest.mark.parametrize(
    ("text", "bit", "status"),
    [
        pytest.param(request_text(uri="http://x"), sanity.RURI_SCHEME, 416, id="scheme"),
        pytest.param(without("Call-ID"), sanity.REQUIRED, 400, id="call-id-missing"),
        pytest.param(without("From"), sanity.REQUIRED, 400, id="from-missing"),
        pytest.param(request_text().replace("SIP/2.0/UDP", "SIP/3.0/UDP"), sanity.VIA_VERSION, 505, id="via-version"),
        pytest.param(request_text().replace("2.0/UDP", "2.0/XYZ"), sanity.VIA_PROTOCOL, 400, id="via-transport"),
        pytest.param(
            request_text().replace("CSeq: 1 INVITE", "CSeq: 1 BYE"), sanity.CSEQ_METHOD, 400, id="cseq-method"
        ),
        pytest.param(request_text().replace("CSeq: 1", "CSeq: 99999999999"), sanity.CSEQ_VALUE, 400, id="cseq-value"),
        pytest.param(request_text("Expires: soon"), sanity.EXPIRES, 400, id="expires"),
        pytest.param(request_text("Proxy-Require: a, b"), sanity.PROXY_REQUIRE, 420, id="proxy-require"),
        pytest.param(request_text(uri="sip:>"), sanity.URIS, 400, id="uri"),
        pytest.param(request_text('Authorization: Digest username="a"'), sanity.DIGEST, 400, id="digest"),
        pytest.param(request_text("CSeq: 2 INVITE"), sanity.DUPLICATES, 400, id="duplicate"),
    ],
)
def test_a_failed_check_is_answered_and_ends_the_script(text, bit, status):
    result, sent = run(text, bit)
    assert result == 0
    assert [answer[0] for answer in sent] == [status]
    assert run(text, 0) == (1, [])


def test_unsupported_extensions_are_named():
    assert run(request_text("Proxy-Require: a, b"), proxy_require="A")[1] == [(420, ["Unsupported: b"])]
    assert run(request_text("Proxy-Require: a"), proxy_require="a")[0] == 1


def test_a_good_message_passes_everything():
    text = request_text("Expires: 60", "Contact: <sip:a@192.0.2.5>", "Max-Forwards: 70", body="v=0\r\n")
    assert run(text, 0x3FFF, 15) == (1, [])
    assert run(text) == (1, [])


def test_ack_is_never_answered():
    result, sent = run(request_text("Expires: soon", method="ACK"))
    assert (result, sent) == (0, [])


def test_replies_are_checked_but_not_answered():
    assert run(reply_text("Expires: soon"))[1] == []
    assert run(reply_text())[0] == 1


def test_without_autodrop_the_function_is_false():
    result, sent = run(request_text("Expires: soon"), autodrop=0)
    assert result == -1
    assert len(sent) == 1


def test_contacts_are_checked_when_asked():
    text = request_text("Contact: <rubbish>")
    assert run(text, sanity.URIS, 7)[0] == 1
    assert run(text, sanity.URIS, sanity.URI_CONTACT)[0] == 0
    assert run(request_text("Contact: *"), sanity.URIS, sanity.URI_CONTACT)[0] == 1
