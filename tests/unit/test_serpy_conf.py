"""etc/serpy.conf: every block can be switched on and off by itself, and everything that can be set is explained."""

import re
from pathlib import Path

import pytest

from serpy import loader

TOP = Path(__file__).resolve().parents[2]
CONFIG = TOP / "etc/serpy.conf"
DEFINES = re.findall(r"^#!trydef (\w+)", CONFIG.read_text(), re.MULTILINE)
ATTRIBUTES = ("fwd_always_target", "fwd_busy_target", "fwd_noanswer_target", "fr_timer", "fr_inv_timer", "gw_ip",
              "gw_port", "gw_acl", "asserted_id", "events_to_phones", "call_limit")  # fmt: skip


@pytest.mark.parametrize(
    "defines",
    [
        {},
        {"NAT": "no"},
        {"SESSION_TIMERS": "no"},
        {"ACCOUNTING": "no"},
        {"TRUST": "no"},
        {"TRUST": "no", "STRANGERS": "no"},
        {"TRUST_SIZE": "isp", "TRUSTED": "192.0.2.0/24 198.51.100.7", "STRANGERS": "no"},
        {"RELOAD_TIMER": "no"},
        {"RTP_PROXY": "udp:127.0.0.1:22222"},
        {"RTP_PROXY": "ng:127.0.0.1:22223", "NAT": "no"},
        {"RTP_PROXY": "unix:/run/rtpproxy.sock"},
        {"REPLICATION": "224.0.1.75", "SERVER_ID": "1"},
        {"ENUM_SUFFIX": "e164.arpa."},
        {"PEER": "192.0.2.7:5060"},
        {"PEER": "peer.example.net"},
        {"PRIVATE_RELAY": "yes"},
        {"URI_ATTRS": "yes"},
        {"EVENT_SERVER": "192.0.2.8:5060"},
        {"XMLRPC_FROM": "192.0.2.0/24"},
        {"NAT": "no", "SESSION_TIMERS": "no", "ACCOUNTING": "no", "RELOAD_TIMER": "no", "PRIVATE_RELAY": "yes"},
    ],
    ids=lambda defines: " ".join(f"{name}={value}" for name, value in defines.items()) or "as-it-is",
)
def test_blocks_are_independent_of_each_other(defines):
    server = loader.load(str(CONFIG), {"DB_URL": "sqlite:////nowhere/serpy.db", **defines}, check_only=True)
    assert server.program.warnings == []


@pytest.mark.parametrize("name", DEFINES)
@pytest.mark.parametrize("page", ["docs/oob.md", "man/serpy.conf.5"])
def test_every_define_is_explained(name, page):
    assert re.search(rf"\b{name}\b", (TOP / page).read_text())


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("page", ["docs/oob.md", "man/serpy.conf.5"])
def test_every_attribute_of_the_script_is_explained(name, page):
    assert f".{name}" in CONFIG.read_text()
    assert re.search(rf"\b{name}\b", (TOP / page).read_text())


def test_the_guide_shows_its_pictures():
    for picture in re.findall(r"\]\((img/[\w.-]+)\)", (TOP / "docs/oob.md").read_text()):
        assert (TOP / "docs" / picture).is_file()
