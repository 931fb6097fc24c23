"""A name server for tests: a zone in a dict, answered from a thread over UDP."""

from __future__ import annotations

import socket
import threading

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(threading.Thread):
    """Answers from *zone*, {("name.", "TYPE"): ["record", …]}; ``silent`` makes it deaf. ``asked`` lists questions."""

    def __init__(self, zone):
        super().__init__(daemon=True)
        self.zone = zone
        self.asked = []
        self.silent = False
        self.rcode = dns.rcode.NOERROR
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.start()

    @property
    def text(self):
        """The address as ``dns_servers`` wants it."""
        return f"127.0.0.1:{self.address[1]}"

    def run(self):
        while True:
            data, source = self.socket.recvfrom(4096)
            if not data:
                self.socket.close()
                return
            query = dns.message.from_wire(data)
            name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
            self.asked.append((name, kind))
            if not self.silent:
                self.socket.sendto(self._answer(query, name, kind).to_wire(), source)

    def _answer(self, query, name, kind):
        response = dns.message.make_response(query)
        records = self.zone.get((name, kind), [])
        if self.rcode != dns.rcode.NOERROR:
            response.set_rcode(self.rcode)
        elif records:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def stop(self):
        """End the thread."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        self.join(5)
