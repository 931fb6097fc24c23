"""The ``usrloc.*`` RPCs: look at and change the location table from outside.

Runs in: ctl. Locks: one stripe at a time inside the table.
"""

from __future__ import annotations

import json
import os
import time
from typing import Final

from serpy.errors import ProtocolError, UsageError
from serpy.modules.usrloc.location import Decision, Location
from serpy.modules.usrloc.storage import cut_text
from serpy.shm.record import FAR_FUTURE, Binding

_FLAGS: Final = 0xFFFF


class LocationFaultError(UsageError):
    """An RPC cannot be carried out; *code* is the fault code for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


class LocationRpc:
    """The functions behind the RPC names; ``location`` is set when the module is initialised."""

    def __init__(self) -> None:
        self.location: Location | None = None
        self.server_id = 0

    def stats(self) -> list[dict[str, object]]:
        """Users and contacts of each location table, and how many contacts have expired since start."""
        location = self._bound()
        names = location.table.tables()
        totals = location.table.stats()
        users = dict.fromkeys(names, 0)
        contacts = dict.fromkeys(names, 0)
        if len(names) == 1:
            users[names[0]], contacts[names[0]] = totals.users, totals.contacts
        else:
            for table, _, bindings in self._records():
                users[table] += 1
                contacts[table] += len(bindings)
        return [
            {
                "domain": name,
                "users": users[name],
                "contacts": contacts[name],
                "expired": totals.expired,
                "loaded": int(location.table.is_loaded(location.table_id(name))),
                "repairs": totals.repairs,
                "used": totals.used,
                "size": totals.size,
            }
            for name in names
        ]

    def show_contacts(self, table: str, uid: str) -> list[dict[str, object]]:
        """The contacts of *uid* in *table*."""
        now = time.time()
        found = [b for b in self._bound_to(table).bindings(table, uid) if b.is_live(now)]
        if not found:
            raise LocationFaultError(404, "AOR not found")
        return [_shown(binding, now) for binding in found]

    def add_contact(
        self,
        table: str,
        uid: str,
        contact: str,
        expires: int,
        q: float,
        flags: int,
        server_id: int = -1,
    ) -> str:
        """Add a contact of *uid*, or replace it: *expires* in seconds (0 = never, with flag 128), *q* 0..1 or -1,
        *flags* 1 NAT, 128 permanent, 256 memory only.
        """
        location = self._bound_to(table)
        if expires <= 0 and not flags & Binding.PERMANENT:
            raise LocationFaultError(400, "expires 0 needs the permanent flag (128)")
        if not uid or not contact or not 0 <= flags <= _FLAGS or q > 1 or cut_text(contact, 4096) != contact:
            raise LocationFaultError(400, "bad parameter")
        now = time.time()
        binding = Binding(
            uid,
            contact,
            FAR_FUTURE if flags & Binding.PERMANENT else int(now) + expires,
            aor="",
            q=-1 if q < 0 else round(q * 1000),
            call_id="RPC-Call-ID",
            cseq=42,
            flags=flags,
            user_agent="serpyctl",
            server_id=self.server_id if server_id < 0 else server_id,
            modified_at=now,
        )

        def decide(current: list[Binding]) -> Decision:
            for known in current:
                if known.contact == contact:
                    binding.aor = known.aor
            return [binding], []

        self._update(location, table, uid, decide, persist=not flags & Binding.MEM)
        return "ok"

    def delete_contact(self, table: str, uid: str, contact: str) -> str:
        """Remove one contact of *uid*."""
        self._remove(table, uid, contact, "contact not found")
        return "ok"

    def delete_uid(self, table: str, uid: str) -> str:
        """Remove all contacts of *uid*."""
        self._remove(table, uid, "", "AOR not found")
        return "ok"

    def flush(self) -> dict[str, int]:
        """Write every binding that is this server's own to the database again."""
        return {"written": self._bound().flush()}

    def dump(self, table: str = "location") -> list[dict[str, object]]:
        """All contacts of *table* that have not expired, with their uid."""
        now = time.time()
        self._bound_to(table)
        return [
            {"uid": uid, **_shown(binding, now)}
            for name, uid, bindings in self._records()
            for binding in bindings
            if name == table and binding.is_live(now)
        ]

    def dump_file(self, path: str) -> dict[str, object]:
        """Write the whole table to the new file *path*, one JSON object per contact and line."""
        count = 0
        now = time.time()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LocationFaultError(500, f"cannot create {path!r}: {exc.strerror}") from None
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            for table, uid, bindings in self._records():
                for binding in bindings:
                    file.write(json.dumps({"table": table, "uid": uid, **_shown(binding, now)}) + "\n")
                    count += 1
        return {"path": path, "contacts": count}

    def _bound(self) -> Location:
        if self.location is None:
            raise LocationFaultError(500, "usrloc is not initialised")
        return self.location

    def _bound_to(self, table: str) -> Location:
        location = self._bound()
        if table not in location.table.tables():
            raise LocationFaultError(400, "table not found")
        return location

    def _records(self) -> list[tuple[str, str, list[Binding]]]:
        location = self._bound()
        found: list[tuple[str, str, list[Binding]]] = []
        start = 0
        while start >= 0:
            page, start = location.table.page(start, 4096)
            found.extend(record for record in page if record[2])
        return found

    def _remove(self, table: str, uid: str, contact: str, missing: str) -> None:
        def decide(current: list[Binding]) -> Decision:
            removed = [b for b in current if not contact or contact in (b.contact, b.uri)]
            if not removed:
                raise LocationFaultError(404, missing)
            return [], removed

        self._update(self._bound_to(table), table, uid, decide, persist=True)

    def _update(self, location: Location, table: str, uid: str, decide: object, *, persist: bool) -> None:
        assert callable(decide)
        try:
            location.update(table, uid, decide, persist=persist)
        except ProtocolError as exc:
            raise LocationFaultError(400, str(exc)) from None


def _shown(binding: Binding, now: float) -> dict[str, object]:
    return {
        "contact": binding.uri,
        "q": -1.0 if binding.q < 0 else binding.q / 1000,
        "expires": 0 if binding.is_permanent else max(0, int(binding.expires_at - now)),
        "ua": binding.user_agent,
        "recv": binding.received,
        "flags": binding.flags,
        "callid": binding.call_id,
        "cseq": binding.cseq,
        "aor": binding.aor,
        "instance": binding.instance,
        "server_id": binding.server_id,
    }
