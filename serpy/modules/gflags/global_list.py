"""The hook that puts the global attributes into each message before its script runs.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import logging
from typing import Final

from serpy.api import Avp, BackendError, Context
from serpy.context.avps import GLOBAL
from serpy.db.snapshot import Snapshot

log = logging.getLogger(__name__)

Attributes = dict[str, list[Avp]]


class GlobalList:
    """Gives a message the attributes as of the last reload."""

    def __init__(self, snapshot: Snapshot[Attributes]) -> None:
        self._snapshot: Final = snapshot

    def before_script(self, ctx: Context) -> bool:
        """Put the global attributes into the message; never stops it, whatever the database does."""
        snapshot = self._snapshot
        if not snapshot.is_current():
            try:
                snapshot.get()
            except BackendError as exc:
                log.debug("global attributes: %s", exc)
        ctx.avps.replace_list(GLOBAL, snapshot.value)
        return True
