"""Tests on URIs and small edits of the Request-URI."""

import pytest
from support.contexts import context, function, reply_text, request_text

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


@pytest.mark.parametrize(
    ("start", "result", "after"),
    [
        ("tel:+43-1-(55)", 1, "sip:+43155@example.com;user=phone"),
        ("tel:55;phone-context=x.at", 1, "sip:55;phone-context=x.at@example.com;user=phone"),
        ("sip:bob@x.at", 1, "sip:bob@x.at"),
        ("urn:service:sos", -1, "urn:service:sos"),
    ],
)
def test_tel2sip(start, result, after):
    ctx = context(request_text(uri=start))
    assert call("tel2sip", ctx) == result
    assert ctx.request_uri == after


def test_is_user_compares_the_authenticated_uid():
    ctx = context(request_text())
    assert call("is_user", ctx, "alice") == -1
    ctx.avps.add(FROM_USER, "uid", "alice")
    assert call("is_user", ctx, "alice") == 1
    assert call("is_user", ctx, "bob") == -1
    assert call("is_user", ctx, None) == -1
