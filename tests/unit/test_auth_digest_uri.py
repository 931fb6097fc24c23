"""Which uri in credentials means which Request-URI."""

import pytest
from support.contexts import context, request_text

from serpy.modules.auth.digest_uri import OFF, SAME_RESOURCE, SAME_URI, is_for, server_of

BOB = "sip:bob@example.com"


def meant(claimed, asked=BOB, level=SAME_RESOURCE, *, method="INVITE", to="sip:carol@example.org", rewritten=False):
    text = request_text(method=method, uri=asked).replace("<sip:bob@example.com>\r\n", f"<{to}>\r\n")
    return is_for(claimed, context(text).request, level, rewritten=rewritten)


@pytest.mark.parametrize(
    "claimed",
    [
        BOB,
        pytest.param("sip:bob@EXAMPLE.com.", id="another-spelling-of-the-host"),
        pytest.param("SIP:bob@example.com", id="scheme-in-capitals"),
        pytest.param("sip:%62ob@example.com", id="escapes"),
        pytest.param("sip:bob@example.com:5060", id="port"),
        pytest.param("sip:bob@example.com;transport=tcp", id="transport"),
        pytest.param("sip:bob:pw@example.com", id="password"),
    ],
)
def test_the_same_resource_is_right(claimed):
    assert meant(claimed)
    assert meant(BOB, claimed)


@pytest.mark.parametrize(
    "claimed",
    [
        "sip:alice@example.com", "sip:Bob@example.com", "sip:example.com", "sip:bob@example.org", "sips:bob@example.com",
        "http://example.com/", "tel:+123", "", " ", "*", "bob@example.com", "<sip:bob@example.com>", "sip:",
        "sip:bob@example.com@example.org", "sip:bob%40example.com", "sip:bob@example.com\x00", "\udcff", "sip:bob@" + "a" * 9000,
        "sip:carol@example.org",
    ],
    ids=lambda text: ascii(text)[:40],
)  # fmt: skip
def test_another_resource_is_wrong(claimed):
    assert not meant(claimed)
    assert not meant(claimed, level=SAME_URI)
    assert meant(claimed, level=OFF)


@pytest.mark.parametrize(
    ("claimed", "right"),
    [
        ("sip:example.com", True),
        ("sip:example.com:5061;transport=tls", True),
        ("sip:example.org", True),  # To's: phones that register through another server
        ("sip:carol@example.org", False),
        ("sip:bob@example.com", False),
        ("sip:example.net", False),
        ("", False),
        ("http://example.com/", False),
    ],
)
def test_a_register_asks_for_a_host(claimed, right):
    assert meant(claimed, "sip:example.com", method="REGISTER") is right


def test_to_counts_only_behind_a_proxy_that_may_have_rewritten():
    assert not meant("sip:carol@example.org", "sip:carol@192.0.2.9:5070")
    assert meant("sip:carol@example.org", "sip:carol@192.0.2.9:5070", rewritten=True)
    assert not meant("sip:dave@example.org", "sip:carol@192.0.2.9:5070", rewritten=True)


@pytest.mark.parametrize(
    ("claimed", "asked", "right"),
    [
        ("sip:bob@[2001:DB8:0::1]", "sip:bob@[2001:db8::1]:5070", True),
        ("sip:bob@[::ffff:192.0.2.1]", "sip:bob@192.0.2.1", True),
        ("sip:bob@[2001:db8::2]", "sip:bob@[2001:db8::1]", False),
        ("tel:+49-30-1234", "tel:+49301234;ext=1", True),
        ("tel:+49301235", "tel:+49301234", False),
        ("urn:service:sos", "urn:service:sos", True),
        ("urn:service:sos.fire", "urn:service:sos", False),
        ("sip:+49301234@example.com;user=phone", "sip:+49301234@example.com", True),
    ],
)
def test_addresses_numbers_and_other_schemes(claimed, asked, right):
    assert meant(claimed, asked) is right


@pytest.mark.parametrize(
    ("claimed", "right"),
    [
        ("sip:%62ob@EXAMPLE.com", True),
        ("sip:bob@example.com:5060", False),
        ("sip:bob@example.com;transport=tcp", False),
    ],
)
def test_level_2_is_the_equality_of_the_rfc(claimed, right):
    assert meant(claimed, level=SAME_URI) is right


@pytest.mark.parametrize(
    ("claimed", "server"),
    [
        ("sip:192.0.2.1:5060", "192.0.2.1"),
        ("sips:h;x=y", "h"),
        ("sip:bob@h", ""),
        ("tel:1", ""),
        ("http://h/", ""),
        ("", ""),
        (" ", ""),
    ],
)
def test_a_uri_without_a_user_may_name_a_server(claimed, server):
    assert server_of(claimed) == server
