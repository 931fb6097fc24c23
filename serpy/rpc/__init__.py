"""The RPC server: the sockets of the ctl process, the protocols spoken there, and the methods that need no module.

``protocol``, ``binrpc`` and ``addresses`` are read by the programs that call as well (serpy/tools); the rest is the server's.
"""
