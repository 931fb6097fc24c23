"""The ``calls.*`` RPCs: which calls there are.

Runs in: ctl. Locks: none; a record may change while it is read, a torn one is left out.
"""

from __future__ import annotations

import time
from typing import Final

from serpy.errors import UsageError
from serpy.modules.rr.sides import CONFIRMED, GATEWAY, OVER, PROXIED, USED
from serpy.shm import call_file as layout
from serpy.shm.call_file import CallFile

_STATES: Final = {layout.RINGING: "ringing", layout.ANSWERED: "answered", layout.ENDED: "ended"}
_KINDS: Final = {layout.INVITE: "call", layout.SUBSCRIBE: "subscription", layout.REFER: "refer"}
_LISTED: Final = 1000


class CallFaultError(UsageError):
    """An RPC cannot be carried out; *code* is the fault code for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


class CallsRpc:
    """The functions behind the RPC names; ``file`` is set when the module is initialised."""

    def __init__(self) -> None:
        self.file: CallFile | None = None

    def list_calls(self, text: str = "") -> list[dict[str, object]]:
        """The calls, subscriptions and transfers in memory, the newest last; only those with *text* in Call-ID, caller or
        callee when it is given. At most 1000.
        """
        found: list[dict[str, object]] = []
        file = self._file()
        now = layout.stamp(time.time())
        for at in file.all():
            if file.expires(at) >= now:
                row = _row(file, at, now)
                if not text or any(text in str(row[name]) for name in ("call_id", "caller", "callee")):
                    found.append(row)
        found.sort(key=lambda row: str(row["since"]))
        return found[-_LISTED:]

    def show(self, call: str) -> list[dict[str, object]]:
        """Everything that is known of the calls whose id or Call-ID is *call*."""
        file = self._file()
        now = layout.stamp(time.time())
        found = []
        for at in file.all():
            row = _row(file, at, now)
            if call in (row["id"], row["call_id"]) and file.expires(at) >= now:
                found.append(row | _details(file, at, now))
        if not found:
            raise CallFaultError(404, "no such call")
        return found

    def _file(self) -> CallFile:
        if self.file is None:
            raise CallFaultError(500, "calls are not remembered (rr dialogs is 0)")
        return self.file


def _row(file: CallFile, at: int, now: int) -> dict[str, object]:
    words = file.words
    meta = int(words[at + layout.META])
    began = int(words[at + layout.BEGAN])
    answered = began & layout.TIME_MASK
    parts = [part.decode("utf-8", "replace") for part in file.read_text(at).split(b"\0")]
    call_id, caller, callee = [*parts, "", "", ""][:3]
    return {
        "id": f"{int(words[at + layout.SERIAL]):08x}",
        "kind": _KINDS.get(meta >> 4 & 15, ""),
        "state": _STATES.get(meta & layout.STATE, ""),
        "caller": caller,
        "callee": callee,
        "since": _time(began >> layout.TIME_BITS),
        "seconds": now - answered if answered else 0,
        "call_id": call_id,
    }


def _details(file: CallFile, at: int, now: int) -> dict[str, object]:
    words = file.words
    meta = int(words[at + layout.META])
    legs: list[str] = []
    record = at
    while record >= 0:
        for leg in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
            info = int(words[leg + layout.INFO])
            if info & USED:
                legs.append(_side(info, has_tag=bool(words[leg])))
        record = file.following(record)
    return {
        "named": int(bool(meta & layout.NAMED)),
        "caller_is": _side(int(words[at + layout.CALLER + layout.INFO]), has_tag=True),
        "legs": legs,
        "last_message": _time(int(words[at + layout.LASTS]) >> layout.TIME_BITS),
        "forgotten_in": file.expires(at) - now,
    }


def _side(info: int, *, has_tag: bool) -> str:
    words = ["over" if info & OVER else "answered" if info & CONFIRMED else "ringing" if has_tag else "asked"]
    if info & GATEWAY:
        words.append("gateway")
    if info & PROXIED:
        words.append("behind a proxy")
    return ", ".join(words)


def _time(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment + layout.EPOCH))
