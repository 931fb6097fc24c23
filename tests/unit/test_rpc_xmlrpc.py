"""XML-RPC documents: calls in, answers and faults out, nothing that expands."""

from __future__ import annotations

import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpy.rpc.protocol import RpcFault
from serpy.rpc.xmlrpc import ANSWER_MAX, build_answer, build_fault, http_response, parse_call

BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<methodCall><methodName>core.echo</methodName><params><param><value>&b;</value></param></params></methodCall>"""

HIDDEN = BOMB.decode().partition("?>")[2].encode("cp037")


def call(*params, method="core.echo"):
    return xmlrpc.client.dumps(params, method).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(call(1, "a", 2.5, [1, 2], {"x": True}), ("core.echo", [1, "a", 2.5, [1, 2], {"x": True}]), id="types"),
        pytest.param(b"<methodCall><methodName>m</methodName></methodCall>", ("m", []), id="no-parameters"),
        pytest.param(
            b"<methodCall><methodName>m</methodName><params><param><value><i4>7</i4></value></param></params></methodCall>",
            ("m", [7]), id="i4",
        ),
        pytest.param(
            b"<!-- a comment --><methodCall><methodName>m</methodName><params><param><value>"
            b"<string><![CDATA[<!DOCTYPE]]></string></value></param></params></methodCall>", None, id="cdata-with-a-doctype",
        ),
        pytest.param(
            "<?xml version='1.0' encoding='ISO-8859-1'?><methodCall><methodName>m</methodName><params><param><value>é</value>"
            "</param></params></methodCall>".encode("latin-1"), ("m", ["é"]), id="latin-1",
        ),
    ],
)  # fmt: skip
def test_a_call_is_read(body, expected):
    if expected is None:  # harmless, but refused with the dangerous ones
        with pytest.raises(RpcFault):
            parse_call(body)
    else:
        assert parse_call(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BOMB, id="entities"),
        pytest.param(BOMB.decode().encode("utf-16"), id="entities-in-utf-16"),
        pytest.param(BOMB.decode().encode("utf-16-le"), id="entities-in-utf-16-without-a-mark"),
        pytest.param(BOMB.decode().encode("utf-32"), id="entities-in-utf-32"),
        pytest.param(b'<?xml version="1.0" encoding="utf-7"?>+ADw-', id="utf-7"),
        pytest.param(b'<?xml version="1.0" encoding="x-user-defined"?><methodCall/>', id="another-encoding"),
        pytest.param(b'\xef\xbb\xbf<?xml version="1.0" encoding="cp037"?>' + HIDDEN, id="entities-in-ebcdic-behind-a-mark"),
        pytest.param(b'<?xml version="encodingutf-8" encoding="cp037"?>' + HIDDEN, id="entities-in-ebcdic-behind-a-version"),
        pytest.param(b"<!doctype a><methodCall/>", id="doctype-in-lower-case"),
        pytest.param(b"<methodCall>", id="cut-off"),
        pytest.param(b"<methodCall/>", id="no-method"),
        pytest.param(b"", id="empty"),
        pytest.param(b"<methodResponse><params/></methodResponse>", id="a-response"),
        pytest.param(
            b"<methodCall><methodName>m</methodName><params><param><value><i4>x</i4></value></param></params></methodCall>",
            id="no-number",
        ),
        pytest.param(b"<a>" * 20000, id="deep"),
    ],
)  # fmt: skip
def test_what_is_no_call_is_a_fault(body):
    with pytest.raises(RpcFault) as caught:
        parse_call(body)
    assert caught.value.code in (-32700, -32600)


pieces = st.sampled_from([
    b"<methodCall>", b"</methodCall>", b"<methodName>", b"</methodName>", b"m", b"<params>", b"<param>", b"<value>",
    b"</value>", b"</param>", b"</params>", b"<i4>", b"</i4>", b"1", b"-", b"<struct>", b"</struct>", b"<member>", b"</member>",
    b"<name>", b"</name>", b"<array>", b"<data>", b"</data>", b"</array>", b"<boolean>", b"</boolean>", b"<double>", b"</double>",
    b"<base64>", b"</base64>", b"<dateTime.iso8601>", b"</dateTime.iso8601>", b"<nil/>", b"<!--", b"-->", b"&amp;", b"&#0;",
    b"<bigdecimal>", b"</bigdecimal>", b"<fault>", b"</fault>", b"\xff",
])  # fmt: skip


@given(st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=30).map(b"".join)))
def test_whatever_comes_is_a_call_or_a_fault(body):
    try:
        method, params = parse_call(body)
    except RpcFault as fault:
        method, params = "", [fault.code]
    assert (bool(method), isinstance(params, list)) in ((True, True), (False, True))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"a": [1, "x", 2.5, True]}, {"a": [1, "x", 2.5, True]}, id="plain"),
        pytest.param(None, "", id="nothing-is-an-empty-text"),
        pytest.param(2**31, "2147483648", id="a-number-beyond-i4-is-text"),
        pytest.param(-(2**31), -(2**31), id="the-smallest-i4"),
        pytest.param("a\x00\x1b\uffffb", "a???b", id="what-xml-cannot-hold"),
        pytest.param("<&>\r\n", "<&>\r\n", id="markup-and-line-ends"),
        pytest.param({1: ("a",)}, {"1": ["a"]}, id="keys-are-text-and-tuples-arrays"),
    ],
)
def test_an_answer_is_read_back_by_the_standard_library(value, expected):
    assert xmlrpc.client.loads(build_answer(value))[0][0] == expected


def test_without_escape_cr_a_carriage_return_is_written_as_it_is():
    assert b"\r" in build_answer("a\rb", escape_cr=False)
    assert b"\r" not in build_answer("a\rb")


def test_a_value_nested_too_deep_is_cut():
    value: object = "x"
    for _ in range(100):
        value = [value]
    assert b"x" not in build_answer(value).partition(b"<params>")[2]


def test_an_answer_that_is_too_large_is_a_fault():
    with pytest.raises(RpcFault):
        build_answer("x" * ANSWER_MAX)


def test_a_fault_is_read_back_by_the_standard_library():
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(build_fault(2**40, "no\x00pe"))
    assert (caught.value.faultCode, caught.value.faultString) == (2**31 - 1, "no?pe")


def test_the_http_around_it():
    assert http_response(200, "OK", b"abc", close=True) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )


def test_the_parser_itself_takes_no_document_type(monkeypatch):
    monkeypatch.setattr("serpy.rpc.xmlrpc._has_declaration", lambda _body: False)
    with pytest.raises(RpcFault):
        parse_call(BOMB)
