"""The variables that may change while the server runs: the cfg framework.

Values in shared memory that one process (ctl) changes and all see before their next message, at the price of one number
read.

Runs in: every process. Locks: none; ``set_now`` is called by the ctl process only.
"""

from __future__ import annotations

import json
from typing import Final

from serpy.errors import ResourceError, UsageError
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment

Scalar = int | str


class Variables:
    """Values by (group, name) that may change at run time: ``custom`` variables and what modules export.

    All values live in one JSON text in shared memory, under a generation number: a reader whose number is current
    looks into its own dict. Before ``place()`` (while loading, and in tests) they live in this object only.
    """

    CAPACITY: Final = 65536
    GENERATION: Final = "cfg"

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Scalar] = {}
        self._kinds: dict[tuple[str, str], str] = {}
        self._help: dict[tuple[str, str], str] = {}
        self._defaults: dict[tuple[str, str], Scalar] = {}
        self._memory: memoryview | None = None
        self._counters: Counters | None = None
        self._seen = 0

    def declare(self, group: str, name: str, kind: str, default: Scalar, text: str = "") -> None:
        """Make *group.name* known with its *kind* ("int" or "str"); before the fork. A second time: a new default."""
        key = (group, name)
        self._kinds[key] = kind
        self._help[key] = text
        self._defaults[key] = self._values[key] = self._typed(key, default)

    def place(self, segment: Segment, counters: Counters) -> None:
        """Move the values into shared memory; in the master before the fork."""
        self._memory = segment.allocate("variables", self.CAPACITY)
        self._counters = counters
        self._seen = counters.generation(self.GENERATION)
        self._store(self._values)

    def get(self, group: str, name: str) -> Scalar:
        """The current value. Raises UsageError when it was never declared."""
        if self._counters is not None and self._counters.generation(self.GENERATION) != self._seen:
            self._load()
        value = self._values.get((group, name))
        if value is None:
            raise UsageError(f"no variable {group}.{name}")
        return value

    def set_now(self, group: str, name: str, value: Scalar) -> None:
        """Change it for every process before its next message. Raises UsageError: unknown, or of another type."""
        key = (group, name)
        self.get(group, name)
        values = dict(self._values)
        values[key] = self._typed(key, value)
        self._store(values)
        self._values = values
        if self._counters is not None:
            self._counters.bump(self.GENERATION)
            self._seen = self._counters.generation(self.GENERATION)

    def list(self) -> list[tuple[str, str, str, Scalar, Scalar, str]]:
        """(group, name, kind, value, default, help) of every variable, in order of declaration."""
        return [
            (group, name, kind, self.get(group, name), self._defaults[group, name], self._help[group, name])
            for (group, name), kind in self._kinds.items()
        ]

    def knows(self, group: str, name: str) -> bool:
        """True when *group.name* was declared."""
        return (group, name) in self._kinds

    def _typed(self, key: tuple[str, str], value: Scalar) -> Scalar:
        kind = self._kinds.get(key)
        if kind == "int" and isinstance(value, str):
            digits = value[1:] if value[:1] == "-" else value
            if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
                raise UsageError(f"{key[0]}.{key[1]} takes a number, not {value[:60]!r}")
            return int(value)
        return str(value) if kind == "str" else value

    def _store(self, values: dict[tuple[str, str], Scalar]) -> None:
        """Write the text, then its length and a copy of the sequence around it: a torn read is seen and repeated."""
        if self._memory is None:
            return
        text = json.dumps([[group, name, value] for (group, name), value in values.items()]).encode()
        if len(text) + 16 > self.CAPACITY:
            raise ResourceError("the variables do not fit into their shared memory")
        before = int.from_bytes(self._memory[0:8], "little")
        self._memory[0:8] = (before | 1).to_bytes(8, "little")
        self._memory[8:16] = len(text).to_bytes(8, "little")
        self._memory[16 : 16 + len(text)] = text
        self._memory[0:8] = ((before | 1) + 1).to_bytes(8, "little")

    def _load(self) -> None:
        assert self._memory is not None
        assert self._counters is not None
        for _ in range(100):
            generation = self._counters.generation(self.GENERATION)
            before = bytes(self._memory[0:8])
            text = bytes(self._memory[16 : 16 + int.from_bytes(self._memory[8:16], "little")])
            if before[0] & 1 == 0 and before == bytes(self._memory[0:8]):
                self._values = {(group, name): value for group, name, value in json.loads(text)}
                self._seen = generation
                return
        # The writer died half-way: keep what we have; its successor's next change repairs the text.
