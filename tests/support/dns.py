"""Name servers for tests: a zone in a dict, answered from a thread or from the loop of the test."""

from __future__ import annotations

import socket
import threading
import time

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(threading.Thread):
    """Answers from *zone*, {("name.", "TYPE"): ["record", …]}; ``silent`` makes it deaf. ``asked`` lists questions.

    With *delay_s* each answer takes its time, without holding up the others.
    """

    def __init__(self, zone, delay_s=0.0):
        super().__init__(daemon=True)
        self.zone = zone
        self.asked = []
        self.silent = False
        self.delay_s = delay_s
        self.late = []  # (when, wire, destination)
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
            self._send_late()
            try:
                data, source = self.socket.recvfrom(4096)
            except TimeoutError:
                continue
            if not data:
                self.socket.close()
                return
            query = dns.message.from_wire(data)
            name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
            self.asked.append((name, kind))
            if not self.silent:
                wire = self._answer(query, name, kind).to_wire()
                self.late.append((time.monotonic() + self.delay_s, wire, source))

    def _send_late(self):
        now = time.monotonic()
        while self.late and self.late[0][0] <= now:
            _, wire, destination = self.late.pop(0)
            self.socket.sendto(wire, destination)
        self.socket.settimeout(max(0.001, self.late[0][0] - now) if self.late else None)

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


def _same_port():
    """A UDP socket, and a TCP socket that listens on the same port."""
    while True:
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.bind(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            continue
        udp.setblocking(False)
        tcp.listen()
        return udp, tcp


class LoopNameServer:
    """A name server in the loop of the test. *zone* as above; what it does beside answering is up to its attributes."""

    def __init__(self, loop, zone):
        self.loop = loop
        self.zone = zone
        self.asked = []
        self.silent = False
        self.ignore = set()  # names not answered at all
        self.refuse = set()  # names answered SERVFAIL
        self.delay_s = 0.0
        self.first = None  # called with the query and its source before it is answered; may send what it likes
        self.hold_for = None  # answers wait until this question, (name, type), has been asked
        self.soa = ""  # of what does not exist
        self.in_full_over_tcp = False
        self._held = []
        self.sock, self.tcp = _same_port()
        self.address = self.sock.getsockname()
        loop.add_reader(self.sock.fileno(), self._datagram)
        loop.add_reader(self.tcp.fileno(), self._connection)

    def close(self):
        self.sock.close()
        self.tcp.close()

    def _datagram(self):
        data, source = self.sock.recvfrom(4096)
        query = dns.message.from_wire(data)
        question = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append(question)
        if self.silent or question[0] in self.ignore:
            return
        if self.first is not None:
            self.first(query, source)
        if self.in_full_over_tcp:
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.TC
        else:
            answer = self.answer(query, *question)
        wire = answer.to_wire()
        if self.hold_for is not None and self.hold_for not in self.asked:
            self._held.append((wire, source))
            return
        for held in self._held:
            self.sock.sendto(*held)
        self._held.clear()
        self.loop.call_at(self.loop.now() + self.delay_s, lambda: self.sock.sendto(wire, source))

    def _connection(self):
        connection, _ = self.tcp.accept()
        self.loop.add_reader(connection.fileno(), lambda: self._request(connection))

    def _request(self, connection):
        data = connection.recv(4096)
        if data:
            query = dns.message.from_wire(data[2:])
            question = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
            wire = self.answer(query, *question).to_wire()
            connection.sendall(len(wire).to_bytes(2, "big") + wire)
        self.loop.remove_reader(connection.fileno())
        connection.close()

    def answer(self, query, name, kind):
        """What the zone has."""
        response = dns.message.make_response(query)
        if (name, "CNAME") in self.zone:
            target = self.zone[name, "CNAME"][0]
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
            name = target
        records = self.zone.get((name, kind), [])
        if name in self.refuse:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
            if self.soa:
                response.authority.append(dns.rrset.from_text("com.", 3600, "IN", "SOA", self.soa))
        return response
