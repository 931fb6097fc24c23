"""Tests on URIs and small edits of the Request-URI."""

import pytest
from support.contexts import context, function, reply_text, request_text, server

from serpy.api import DOMAINS
from serpy.context.avps import FROM_USER
from serpy.modules import uri


def call(name, ctx, *args):
    return function(uri.exports(), name)(ctx, *args)


def test_has_totag():
    assert call("has_totag", context(request_text())) == -1
    assert call("has_totag", context(request_text(to_tag="x"))) == 1
    assert call("has_totag", context(reply_text())) == 1


@pytest.mark.parametrize(
    ("args", "result"),
    [(("transport",), 1), (("Transport", "tcp"), 1), (("transport", "udp"), -1), (("ob",), 1), (("x",), -1),
     (("ob", None), -1)],
)  # fmt: skip
def test_uri_param(args, result):
    assert call("uri_param", context(request_text(uri="sip:bob@example.com;transport=TCP;ob")), *args) == result


@pytest.mark.parametrize(
    ("start", "text", "result", "after"),
    [
        ("sip:bob@example.com", "a=1", 1, "sip:bob@example.com;a=1"),
        ("sip:bob@example.com;b", ";a=1", 1, "sip:bob@example.com;b;a=1"),
        ("sip:bob@example.com", "", -1, "sip:bob@example.com"),
        ("sip:bob@example.com", "a b", -1, "sip:bob@example.com"),
        ("tel:+1", "a=1", -1, "tel:+1"),
    ],
)
def test_add_uri_param(start, text, result, after):
    ctx = context(request_text(uri=start))
    assert call("add_uri_param", ctx, text) == result
    assert ctx.request_uri == after


class Served:
    """The domains of this server."""

    def is_local(self, host):
        return host.lower() == "x.at"


@pytest.mark.parametrize(
    ("start", "args", "result", "after"),
    [
        pytest.param("tel:+43-1-(55)", (), 1, "sip:+43155@example.com;user=phone", id="at-the-domain-of-from"),
        pytest.param("tel:55", ("here.at",), 1, "sip:55@here.at;user=phone", id="at-a-given-domain"),
        pytest.param("tel:55", (None,), 1, "sip:55@example.com;user=phone", id="nothing-given"),
        pytest.param("tel:55;phone-context=x.at", (), 1, "sip:55@x.at;user=phone", id="at-its-own-domain"),
        pytest.param("tel:55;ext=7;Phone-Context=X.at", ("h.at",), 1, "sip:55;ext=7@X.at;user=phone", id="more-params"),
        pytest.param("tel:55;phone-context=y.at", (), 1, "sip:55;phone-context=y.at@example.com;user=phone",
                     id="of-elsewhere"),
        pytest.param("tel:55;phone-context=+43", (), 1, "sip:55;phone-context=+43@example.com;user=phone",
                     id="of-another-country"),
        pytest.param("sip:bob@x.at", (), 1, "sip:bob@x.at", id="a-sip-uri"),
        pytest.param("urn:service:sos", (), -1, "urn:service:sos", id="another-scheme"),
    ],
)  # fmt: skip
def test_a_telephone_number_becomes_a_sip_uri(start, args, result, after):
    one = server()
    one.provide(DOMAINS, Served())
    exports = uri.exports()
    exports.child_init(one)
    ctx = context(request_text(uri=start))
    assert function(exports, "tel2sip")(ctx, *args) == result
    assert ctx.request_uri == after


def test_a_number_dialled_by_a_number_is_one_at_the_domain_of_to():
    text = request_text(uri="tel:55").replace("sip:alice@example.com", "tel:+4312")
    ctx = context(text)
    assert call("tel2sip", ctx) == 1
    assert ctx.request_uri == f"sip:55@{ctx.message.to.uri.host};user=phone"


def test_a_number_without_any_domain_stays_one():
    text = (
        request_text(uri="tel:55")
        .replace("sip:alice@example.com", "tel:+4312")
        .replace("sip:bob@example.com", "tel:55")
    )
    ctx = context(text)
    assert call("tel2sip", ctx) == -1
    assert ctx.request_uri == "tel:55"


def test_is_user_compares_the_authenticated_uid():
    ctx = context(request_text())
    assert call("is_user", ctx, "alice") == -1
    ctx.avps.add(FROM_USER, "uid", "alice")
    assert call("is_user", ctx, "alice") == 1
    assert call("is_user", ctx, "bob") == -1
    assert call("is_user", ctx, None) == -1
