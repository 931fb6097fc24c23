"""One normal form of hosts (RFC 3261 §19.1.4, §25.1; RFC 5952)."""

from __future__ import annotations

import pytest

from serpy.sip.host import normal_host


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_sip._udp.example.com", "_sip._udp.example.com"),
        ("3com.example", "3com.example"),
        ("a-b.example", "a-b.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1.", "192.0.2.1"),
        ("[2001:DB8:0:0::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_two_spellings_of_one_host_are_one(written: str, normal: str) -> None:
    assert normal_host(written) == normal
    assert normal_host(normal) == normal


@pytest.mark.parametrize(
    "written",
    [
        "", ".", "..", "example..com", ".example.com", "example.com..", "exa mple.com", "example.com\x00", "example.com\n",
        "ex%61mple.com", "exämple.com", "\u0130.example", "127.1", "0x7f.1", "0x7f000001", "2130706433", "010.0.0.1",
        "1.2.3.256", "1.2.3.4.5", "example.123", "-a.example", "a-.example", "a" * 64 + ".example",
        ".".join(["a" * 60] * 5), "[::1", "::1]", "[192.0.2.1]", "::g", "2001:db8::1%eth0", "\u0661.2.3.4", "*",
        "192.0.2.1]", "192.0.2.1].", "192.0.2.01",
    ],
)  # fmt: skip
def test_what_has_no_normal_form_is_no_host(written: str) -> None:
    assert normal_host(written) == ""
