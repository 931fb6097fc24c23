"""Databases that fail, hang or forget to answer, in front of real ones; rows and batches for the store."""

from __future__ import annotations

import time

from serpy.db.frames import decode_acks, encode_batch, encode_request
from serpy.errors import DatabaseDownError

FIRST = time.time_ns() // 1000  # batches are numbered by microseconds of Unix time


def binding(uid="alice", contact="sip:a@192.0.2.1", expires=2_000_000_000, **more):
    return {"uid": uid, "aor": f"sip:{uid}@example.com", "contact": contact, "expires": expires, "q": 0.5, **more}


def upsert(*args, **more):
    return ("upsert", "location", binding(*args, **more))


def delete(uid="alice", contact="sip:a@192.0.2.1"):
    return ("delete", "location", {"uid": uid, "contact": contact})


def acc(call_id):
    row = {"sip_callid": call_id, "request_timestamp": 1, "response_timestamp": 2}
    return ("insert", "acc", row)


BAD = ("insert", "location", {"uid": "x"})  # contact must not be NULL


def sql(text, *values):
    return ("sql", text, {str(place): value for place, value in enumerate(values)})


def batch(number, *requests, url="", again=False, wait=True, incarnation=100, oldest=0):
    """The datagram number *number* (from 1) of a client; *oldest* likewise, 0 = itself is the oldest."""
    data = [encode_request(request, wait=wait) for request in requests]
    first = FIRST + (oldest or number)
    return encode_batch(url, incarnation, FIRST + number, oldest=first, again=again, requests=data)


class Failing:
    """A database in front of the real one. It is down when told so; the commits numbered in *cut* (from 1) are done without
    an answer (the connection breaks); *again* of them are tried again by the driver at once, as the pool does it; *hang* is
    called in the middle of the next write.
    """

    def __init__(self, database):
        self.database = database
        self.down = False
        self.cut = set()
        self.again = 0
        self.hang = None
        self.writes = []

    def write(self, operations):
        if self.down:
            raise DatabaseDownError("gone")
        if self.hang is not None:
            hang, self.hang = self.hang, None
            hang()
        self.database.write(operations)
        self.writes.append(list(operations))
        if len(self.writes) in self.cut:
            if not self.again:
                raise DatabaseDownError("cut", unknown=True)
            self.again -= 1
            self.write(operations)

    def select(self, *args, **more):
        if self.down:
            raise DatabaseDownError("gone")
        return self.database.select(*args, **more)

    def calls(self):
        """The Call-IDs of the accounting rows, in order of writing."""
        return [row[0] for row in self.database.select("acc", ("sip_callid",), {}, order="id")]

    def uids(self):
        return [row[0] for row in self.database.select("location", ("uid",), {}, order="uid")]


class Sink:
    """Takes the store's answers."""

    def __init__(self):
        self.acks = []
        self.datagrams = 0
        self.full = False

    def send(self, slot, payload):
        if self.full:
            return False
        self.datagrams += 1
        self.acks.extend(
            (slot, incarnation, number - FIRST, errors) for incarnation, number, errors in decode_acks(payload)
        )
        return True

    def refused(self):
        """number of the batch → the refused requests, of all answers so far."""
        return {number: sorted(errors) for _slot, _incarnation, number, errors in self.acks}
