"""The ctl process: RPC sockets for serpyctl and metrics. It never asks a receiver; it reads shared memory.

Where a database tells of changed rows (PostgreSQL), it listens and makes all processes forget what they keep of them.

Runs in: ctl. Locks: none of its own.
"""

from __future__ import annotations

import logging

from serpy.db.schema import CACHED
from serpy.errors import SerpyError
from serpy.rpc.server import RpcServer
from serpy.workers.base import Worker

log = logging.getLogger(__name__)


class CtlWorker(Worker):
    """Hosts the RPC server."""

    role = "ctl"

    def after_fork(self) -> None:
        """Open the sockets."""
        self.rpc_server = RpcServer(self.server)
        self.rpc_server.start()
        self._watch_databases()

    def _watch_databases(self) -> None:
        server = self.server
        for url in dict.fromkeys(getattr(exports.module, "db_url", "") for exports in server.exports.values()):
            if not isinstance(url, str) or not url or url.startswith("sqlite:"):  # a file tells nobody
                continue
            try:
                watch = getattr(server.database(url), "watch", None)
            except SerpyError as exc:
                log.debug("not watching a database: %s", exc)
                continue
            if watch is not None:
                watch(self._changed)

    def _changed(self, table: str) -> None:
        """Rows of *table*, of any when "", have changed in the database."""
        for name in dict.fromkeys([CACHED[table]] if table in CACHED else CACHED.values() if not table else ()):
            self.server.counters.bump(name)
