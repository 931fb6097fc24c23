"""OPTIONS for the server is answered; for a phone it is not our business."""

import pytest
from support.contexts import FakeReplies, configure, context, function, request_text, server

from serpy.api import REPLIES, ConfigError
from serpy.modules import options


def answer(text, **parameters):
    one = server()
    replies = FakeReplies()
    one.provide(REPLIES, replies)
    exports = configure(options.exports(), one, **parameters)
    return function(exports, "options_reply")(context(text)), replies.sent


def test_the_server_says_what_it_accepts():
    result, sent = answer(request_text(method="OPTIONS", uri="sip:example.com"))
    assert result == 1
    assert (sent[0].status, sent[0].reason) == (200, "OK")
    assert sent[0].headers[0].startswith("Allow: INVITE,ACK,CANCEL,BYE,OPTIONS,REGISTER,")
    assert sent[0].headers[1:] == ["Accept: */*", "Accept-Encoding: ", "Accept-Language: en", "Supported: "]


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        pytest.param({"allow": "OPTIONS"}, "Allow: OPTIONS", id="allow"),
        pytest.param({"supported": "path"}, "Supported: path", id="supported"),
        pytest.param({"contact_param": 1}, "Contact: <sip:192.0.2.1:5060>", id="receiving-address-as-contact"),
        pytest.param({"contact": "<sip:me>"}, "Contact: <sip:me>", id="given-contact"),
    ],
)
def test_header_values_come_from_parameters(parameters, line):
    _, sent = answer(request_text(method="OPTIONS", uri="sip:example.com"), **parameters)
    assert line in sent[0].headers


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        pytest.param("OPTIONS", "sip:bob@example.com", id="for-a-user"),
        pytest.param("INVITE", "sip:example.com", id="another-method"),
        pytest.param("OPTIONS", "sip:", id="unreadable-uri"),
    ],
)
def test_other_requests_stop_the_script_without_an_answer(method, uri):
    result, sent = answer(request_text(method=method, uri=uri))
    assert (result, sent) == (0, [])


def test_without_a_module_that_replies_it_refuses_to_start():
    with pytest.raises(ConfigError):
        configure(options.exports(), server())
