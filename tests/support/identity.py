"""A Server with the tables of the identity model in a real SQLite file, and the modules that read them."""

from __future__ import annotations

from types import SimpleNamespace

from support.contexts import configure, server

from serpy.db import schema
from serpy.errors import BackendError
from serpy.modules.db_sqlite import SqliteModule
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment


class Identity:
    """``broken`` makes every database call fail; ``opened`` counts handles, ``selects`` the queries."""

    def __init__(self, folder):
        self.url = f"sqlite:///{folder}/identity.db"
        self.driver = SqliteModule()
        self.broken = False
        self.selects = 0
        self.open_handles = 0
        self.admin = self.driver.open(self.url, read_only=False, create=True)
        schema.create(self.admin)
        self.server = server()
        self.server.settings = SimpleNamespace(server_id=0)
        self.server.segment = Segment(4 << 20)
        self.server.counters = Counters(self.server.segment, 2)
        self.server.loop = Loop()
        self.server.started_wall = 1_600_000_000.0
        self.server.open_database = self.open

    def open(self, url):
        if self.broken:
            raise BackendError("the database is down")
        self.open_handles += 1
        return Watched(self, self.driver.open(url, read_only=True))

    def load(self, module, **parameters):
        exports = module.exports()
        if any(param.name == "db_url" for param in exports.params):
            parameters.setdefault("db_url", self.url)
        configure(exports, self.server, **parameters)
        self.server.exports[exports.name] = exports
        return exports

    def start(self):
        """What happens in a child after the fork."""
        self.server.slot = 0
        self.server.counters.attach(0)
        for exports in self.server.exports.values():
            if exports.child_init is not None:
                exports.child_init(self.server)

    def insert(self, table, **values):
        self.admin.write([("insert", table, values)])

    def domain(self, name, did="d1", flags=33, **attrs):
        self.insert("domain", did=did, domain=name, flags=flags)
        for attr, value in attrs.items():
            self.insert("domain_attrs", did=did, name=attr, type=2, value=value, flags=33)


class Watched:
    """A handle that counts and can fail."""

    def __init__(self, identity, database):
        self._identity = identity
        self._database = database

    def select(self, *arguments, **options):
        self._identity.selects += 1
        if self._identity.broken:
            raise BackendError("the database is down")
        return self._database.select(*arguments, **options)

    def close(self):
        self._identity.open_handles -= 1
        self._database.close()


def rpc(exports, name):
    return next(entry.call for entry in exports.rpc if entry.name == name)
