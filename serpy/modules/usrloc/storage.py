"""Rows of ``location`` and bindings: one into the other, and the operations that bring the database up to date.

Pure. What the database cannot hold (bytes that are not UTF-8, NUL) is replaced in texts that only inform; the registrar
refuses it in a contact or a user id, which are keys.

Runs in: udp receiver, timer, ctl. Locks: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from serpy.db.frames import Fields, operation
from serpy.shm.record import FAR_FUTURE, Binding

if TYPE_CHECKING:
    from serpy.db.interface import Operation, Row, Value

COLUMNS: Final = (
    "uid",
    "contact",
    "aor",
    "server_id",
    "received",
    "expires",
    "q",
    "callid",
    "cseq",
    "flags",
    "user_agent",
    "instance",
)
KEY: Final = ("uid", "contact")

_TEXT_MAX: Final = 255  # database.md, ``location``
_AGENT_MAX: Final = 64


def cut_text(text: str, limit: int = _TEXT_MAX) -> str:
    """*text* as the database can hold it: at most *limit* characters, valid UTF-8, without NUL."""
    if text.isascii():
        return text[:limit] if "\0" not in text else text.replace("\0", "?")[:limit]
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return clean.replace("\0", "?")[:limit]


def to_row(binding: Binding) -> tuple[Value, ...]:
    """The row of *binding* (``COLUMNS``)."""
    return (
        binding.uid,
        binding.contact,
        cut_text(binding.aor),
        binding.server_id,
        binding.received or None,
        FAR_FUTURE if binding.is_permanent else binding.expires_at,
        -1.0 if binding.q < 0 else binding.q / 1000,
        cut_text(binding.call_id),
        binding.cseq,
        binding.flags & ~Binding.MEM,
        cut_text(binding.user_agent, _AGENT_MAX),
        cut_text(binding.instance) or None,
    )


def from_row(row: Row, server_id: int) -> Binding:
    """The binding of *row* (``COLUMNS``). One that another server of the farm owns is MEM here: not ours to write.

    The time of the last change is not stored: the order of expiry stands in for it, below anything newer.
    """
    owner = _number(row[3])
    expires_at = _number(row[5])
    q = row[6]
    flags = _number(row[9]) & 0xFFFF & ~Binding.MEM
    if owner != server_id:
        flags |= Binding.MEM
    return Binding(
        _text(row[0]),
        _text(row[1]),
        expires_at,
        aor=_text(row[2]),
        received=_text(row[4]),
        q=max(0, min(1000, round(q * 1000))) if isinstance(q, (int, float)) and q >= 0 else -1,
        call_id=_text(row[7]),
        cseq=_number(row[8]) & 0xFFFFFFFF,
        flags=flags,
        user_agent=_text(row[10]),
        instance=_text(row[11]),
        server_id=owner,
        modified_at=expires_at / 1e6,
    )


def _text(value: Value) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Value) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def live_rows(rows: Sequence[Row], server_id: int, wall_now: float) -> list[Binding]:
    """The bindings of *rows* that have not expired."""
    found: list[Binding] = []
    for row in rows:
        binding = from_row(row, server_id)
        if binding.is_live(wall_now):
            found.append(binding)
    return found


def upsert(table: str, binding: Binding) -> Operation:
    """The operation that stores *binding*."""
    return operation("upsert", table, Fields(COLUMNS, to_row(binding)))


def delete(table: str, binding: Binding) -> Operation:
    """The operation that forgets the contact, whatever its row says by now."""
    return delete_contact(table, binding.uid, binding.contact)


def delete_contact(table: str, uid: str, contact: str) -> Operation:
    """The operation that forgets *contact* of *uid*, whatever its row says by now."""
    return ("delete", table, {"uid": uid, "contact": contact})


def delete_expired(table: str, binding: Binding) -> Operation:
    """The operation that forgets *binding* unless its row has been refreshed meanwhile."""
    conditions: Mapping[str, Value] = {
        "uid": binding.uid,
        "contact": binding.contact,
        "expires": binding.expires_at,
    }
    return ("delete", table, conditions)


def operations(table: str, put: Sequence[Binding], removed: Sequence[Binding]) -> list[Operation]:
    """What the database must do after *put* were stored and *removed* dropped. MEM bindings are none of its business."""
    kept = {binding.contact for binding in put}
    done: list[Operation] = []
    for binding in removed:
        if not binding.is_memory_only and binding.contact not in kept:
            done.append(delete(table, binding))
    for binding in put:
        if not binding.is_memory_only:
            done.append(upsert(table, binding))
    return done
