"""The ctl process: RPC sockets for serpyctl and metrics. It never asks a receiver; it reads shared memory.

Runs in: ctl. Locks: none of its own.
"""

from __future__ import annotations

from serpy.rpc.server import RpcServer
from serpy.workers.base import Worker


class CtlWorker(Worker):
    """Hosts the RPC server."""

    role = "ctl"

    def after_fork(self) -> None:
        """Open the sockets."""
        self.rpc_server = RpcServer(self.server)
        self.rpc_server.start()
