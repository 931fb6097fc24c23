"""Replication of registrations between the servers of a farm: signed multicast REGISTERs, digests and repair.

``envelope``, ``window``, ``merge``, ``digest`` and ``records`` are pure; ``tombstones`` lies in shared memory; ``repair``
is the conversation of two servers; ``agent`` is the part of the timer process that owns the sockets.
"""
