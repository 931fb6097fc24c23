"""Which contacts this server has a way to, by the transports and address families it listens on.

A contact is called where it registered from, or over its connection, whatever it says; all others as they are written. Names
are not resolved: that one has only addresses of the other family shows when it is called.

Runs in: udp receiver; WaysOut is made in the master. Locks: none. RFC: 3261 §26.2.2; 3263 §4.1.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Binding
from serpy.errors import ParseError
from serpy.modules.registrar.contacts import transport_of
from serpy.sip.address import is_address
from serpy.sip.flow import Listener
from serpy.sip.uri import Uri, parse_uri


class WaysOut:
    """What *listeners* can send over."""

    def __init__(self, listeners: list[Listener]) -> None:
        usable = [each for each in listeners if not each.multicast]
        self._transports: Final = frozenset([each.transport for each in usable])
        self._with_ipv4: Final = frozenset([each.transport for each in usable if not each.ipv6])
        self._with_ipv6: Final = frozenset([each.transport for each in usable if each.ipv6])
        self._has_plain: Final = "udp" in self._with_ipv4

    def lead_to(self, uri: Uri) -> bool:
        """True when a request can be sent to *uri* as it is written. A number is for the script to route."""
        if not uri.is_sip:
            return uri.scheme == "tel"
        transport = transport_of(uri)
        host = uri.param("maddr") or uri.host
        if not is_address(host):
            return not transport or transport in self._transports  # without one the DNS says it
        return (transport or "udp") in (self._with_ipv6 if ":" in host else self._with_ipv4)

    def reach(self, binding: Binding) -> bool:
        """True when *binding* can be called."""
        if binding.received and (not binding.flags & Binding.FLOW or ";transport=" in binding.received):
            return True
        contact = binding.contact
        if self._has_plain and contact.startswith("sip:") and ";" not in contact and "[" not in contact:
            return True  # as nearly all
        try:
            return self.lead_to(parse_uri(contact))
        except ParseError:
            return False
