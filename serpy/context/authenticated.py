"""Who sent a request, as its digest credentials have proved.

Written by the module that checked them, read by whoever needs to know: accounting, speed dials.

Runs in: udp receiver. Locks: none. RFC: 3261 §22, 8760.
"""

from __future__ import annotations


class Authenticated:
    """*www_index* and *proxy_index* are the header lines with the credentials, -1 = none."""

    def __init__(self, username: str = "", realm: str = "") -> None:
        self.username = username
        self.realm = realm
        self.www_index = -1
        self.proxy_index = -1
