"""Attributes (AVPs): seven small lists of named values that belong to one message or transaction.

Names and search order follow script-language §6: track (from or to) and class (URI, user, domain, global). Values are
pushed at the head, so every list is newest first. ``Avp`` objects and the value lists inside a dict are never changed
in place: a dict may therefore be shared with a cache or with the transaction and is copied on the first write only.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

FROM_URI: Final = 0
TO_URI: Final = 1
FROM_USER: Final = 2
TO_USER: Final = 3
FROM_DOMAIN: Final = 4
TO_DOMAIN: Final = 5
GLOBAL: Final = 6
LIST_COUNT: Final = 7

TRACK_FROM: Final = 0
TRACK_TO: Final = 1

CLASS_ANY: Final = -1
CLASS_URI: Final = 0
CLASS_USER: Final = 1
CLASS_DOMAIN: Final = 2
CLASS_GLOBAL: Final = 3

TEXT_MAX: Final = 65_535  # characters of a value that is written: loops of a script grow none beyond a message
VALUES_MAX: Final = 1000  # values of one attribute; the oldest give way

ALL: Final = 1 << 30  # the index of ``$x[]``

_SEARCH: Final[tuple[tuple[int, ...], tuple[int, ...]]] = (
    (FROM_URI, FROM_USER, FROM_DOMAIN, GLOBAL),
    (TO_URI, TO_USER, TO_DOMAIN, GLOBAL),
)
_PREFIXES: Final[dict[str, tuple[int, int]]] = {
    "f": (TRACK_FROM, CLASS_ANY),
    "t": (TRACK_TO, CLASS_ANY),
    "fr": (TRACK_FROM, CLASS_URI),
    "tr": (TRACK_TO, CLASS_URI),
    "fu": (TRACK_FROM, CLASS_USER),
    "tu": (TRACK_TO, CLASS_USER),
    "fd": (TRACK_FROM, CLASS_DOMAIN),
    "td": (TRACK_TO, CLASS_DOMAIN),
    "g": (TRACK_FROM, CLASS_GLOBAL),
}
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:")


class Avp:
    """One value with its AVP flags (bits as declared by ``avpflags``). Never changed once made."""

    def __init__(self, value: int | str, flags: int = 0) -> None:
        self.value: Final = value
        self.flags: Final = flags

    def __repr__(self) -> str:
        return f"Avp({self.value!r}, {self.flags})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Avp) and self.value == other.value and self.flags == other.flags

    def __hash__(self) -> int:
        return hash((self.value, self.flags))


class AvpName:
    """A parsed attribute reference. *index*: 0 = written without, 1 = oldest, -1 = newest, ``ALL`` = ``[]``.

    *name* is "" when the reference names a whole list (``"$fd"`` as an argument of ``lookup_domain``). ``lists`` is
    where a read looks, in order; ``write_list`` where a write goes.
    """

    def __init__(self, track: int, cls: int, name: str, index: int = 0) -> None:
        self.track: Final = track
        self.cls: Final = cls
        self.name: Final = name
        self.index: Final = index
        self.lists: Final[tuple[int, ...]] = _SEARCH[track] if cls == CLASS_ANY else (_list_id(track, cls),)
        self.write_list: Final = _list_id(track, CLASS_URI if cls == CLASS_ANY else cls)

    def __repr__(self) -> str:
        prefixes = [text for text, pair in _PREFIXES.items() if pair == (self.track, self.cls)]
        prefix = prefixes[0] if prefixes else "?"
        index = "" if not self.index else "[]" if self.index == ALL else f"[{self.index}]"
        return f"${prefix}.{self.name}{index}" if self.name else f"${prefix}"


def _list_id(track: int, cls: int) -> int:
    return GLOBAL if cls == CLASS_GLOBAL else 2 * cls + track


def parse_avp_name(text: str) -> AvpName:
    """Read ``$name``, ``$class.name``, an index, the old ``s:name``/``i:number`` and ``$avp(name)``; the ``$`` may be
    missing. Raises ValueError.
    """
    rest = text.removeprefix("$")
    if rest.startswith("avp(") and rest.endswith(")"):
        rest = rest[4:-1]
    rest = rest.removeprefix("s:")
    rest, index = _split_index(rest, text)
    track, cls, name = TRACK_FROM, CLASS_ANY, rest
    prefix, dot, tail = rest.partition(".")
    if dot:
        if prefix not in _PREFIXES:
            raise ValueError(f"unknown attribute class {prefix!r} in {text!r}; there are {', '.join(_PREFIXES)}")
        track, cls = _PREFIXES[prefix]
        name = tail.removeprefix("s:")
    if not name or not _NAME_CHARACTERS.issuperset(name):
        raise ValueError(f"not an attribute name: {text!r}")
    return AvpName(track, cls, name, index)


def parse_track(text: str) -> AvpName:
    """Read the name of a whole list (``$fd``, ``$tu``, ``$f``): an AvpName with an empty name. Raises ValueError."""
    pair = _PREFIXES.get(text.removeprefix("$"))
    if pair is None:
        raise ValueError(f"not an attribute list: {text!r} (one of {' '.join('$' + name for name in _PREFIXES)})")
    return AvpName(pair[0], pair[1], "")


def is_class_prefix(text: str) -> bool:
    """True for the class part of ``$class.name``."""
    return text in _PREFIXES


def _split_index(rest: str, text: str) -> tuple[str, int]:
    if not rest.endswith("]"):
        return rest, 0
    name, bracket, number = rest[:-1].partition("[")
    if not bracket:
        raise ValueError(f"not an attribute name: {text!r}")
    if not number:
        return name, ALL
    digits = number[1:] if number[0] == "-" else number
    if not digits.isascii() or not digits.isdigit() or not int(digits):
        raise ValueError(f"not an attribute index: {text!r}")
    return name, int(number)


_NO_VALUES: Final[list[Avp]] = []
_NO_ATTRS: Final[dict[str, list[Avp]]] = {}
_NO_LISTS: Final[list[dict[str, list[Avp]]]] = [_NO_ATTRS] * LIST_COUNT


def bounded(value: int | str) -> int | str:
    """*value* cut to what an attribute may hold."""
    return value[:TEXT_MAX] if isinstance(value, str) and len(value) > TEXT_MAX else value


class Avps:
    """The seven lists of one message."""

    def __init__(self) -> None:
        self._lists: list[dict[str, list[Avp]]] = _NO_LISTS  # shared until one is written
        self._owned = 0  # bit per list: the dict is ours alone and may be changed

    def copy(self) -> Avps:
        """An independent copy; both share the dicts until one of them writes."""
        other = Avps()
        other._lists = self._lists[:]
        self._owned = 0
        return other

    def __bool__(self) -> bool:
        return any(self._lists)

    def _writable(self) -> list[dict[str, list[Avp]]]:
        if self._lists is _NO_LISTS:
            self._lists = _NO_LISTS.copy()
        return self._lists

    def _own(self, list_id: int) -> dict[str, list[Avp]]:
        attrs = self._lists[list_id]
        bit = 1 << list_id
        if not self._owned & bit:
            attrs = dict(attrs)
            self._writable()[list_id] = attrs
            self._owned |= bit
        return attrs

    def get(self, list_id: int, name: str) -> list[Avp]:
        """All values of *name* in one list, newest first. The caller must not change the list."""
        return self._lists[list_id].get(name, _NO_VALUES)

    def newest(self, list_id: int, name: str) -> int | str | None:
        """The newest value in one list, None when there is none."""
        found = self._lists[list_id].get(name)
        return found[0].value if found else None

    def add(self, list_id: int, name: str, value: int | str, flags: int = 0) -> None:
        """Push one more value at the head."""
        attrs = self._own(list_id)
        attrs[name] = [Avp(bounded(value), flags), *attrs.get(name, _NO_VALUES)[: VALUES_MAX - 1]]

    def set(self, list_id: int, name: str, value: int | str, flags: int = 0) -> None:
        """Replace every value of *name* by this one."""
        self._own(list_id)[name] = [Avp(bounded(value), flags)]

    def set_values(self, list_id: int, name: str, values: list[Avp]) -> None:
        """Replace every value of *name* by *values*, newest first; an empty list deletes the name."""
        if values:
            self._own(list_id)[name] = values
        else:
            self.delete(list_id, name)

    def delete(self, list_id: int, name: str) -> None:
        """Forget *name* in one list."""
        if name in self._lists[list_id]:
            del self._own(list_id)[name]

    def clear(self, list_id: int) -> None:
        """Empty one list."""
        self._writable()[list_id] = _NO_ATTRS
        self._owned &= ~(1 << list_id)

    def replace_list(self, list_id: int, attrs: dict[str, list[Avp]]) -> None:
        """Make *attrs* the whole list. It stays shared with the caller and is copied before the first write."""
        self._writable()[list_id] = attrs
        self._owned &= ~(1 << list_id)

    def attrs(self, list_id: int) -> dict[str, list[Avp]]:
        """One whole list, to be read only."""
        return self._lists[list_id]

    def items(self, list_id: int) -> list[tuple[str, Avp]]:
        """(name, value) pairs of one list, newest first within each name."""
        return [(name, avp) for name, values in self._lists[list_id].items() for avp in values]

    def search(self, name: str, track: int = 0) -> int | str | None:
        """The newest value in URI, user, domain, global order of *track*: what functions look for."""
        lists = self._lists
        for list_id in _SEARCH[track]:
            found = lists[list_id].get(name)
            if found:
                return found[0].value
        return None

    def find(self, avp_name: AvpName) -> list[Avp]:
        """The values of the first list that has the name, newest first; empty when none has."""
        lists = self._lists
        for list_id in avp_name.lists:
            attrs = lists[list_id]
            if attrs:  # most lists of most messages are empty
                found = attrs.get(avp_name.name)
                if found:
                    return found
        return _NO_VALUES

    def read(self, avp_name: AvpName) -> int | str | None:
        """The value by the script's rule: without an index, several different values are ambiguous, hence None."""
        found = self.find(avp_name)
        count = len(found)
        if not count:
            return None
        index = avp_name.index
        if not index:
            value = found[0].value
            if count > 1:
                for other in found:
                    if other.value != value:
                        return None
            return value
        if index == ALL:
            return found[0].value
        place = count - index if index > 0 else -index - 1
        return found[place].value if 0 <= place < count else None

    def newest_of(self, avp_name: AvpName) -> int | str | None:
        """The newest value whatever the index says."""
        found = self.find(avp_name)
        return found[0].value if found else None

    def exists(self, avp_name: AvpName) -> bool:
        """True when any list that a read looks at has the name."""
        return bool(self.find(avp_name))

    def write(self, avp_name: AvpName, value: int | str | None) -> None:
        """Assign by the script's rule: None deletes, ``[]`` adds, ``[n]`` replaces that value, else one replaces all."""
        list_id = avp_name.write_list
        name = avp_name.name
        index = avp_name.index
        if value is None:
            self.delete(list_id, name)
        elif not index:
            self._own(list_id)[name] = [Avp(bounded(value))]
        elif index == ALL:
            self.add(list_id, name, value)
        else:
            self._write_at(list_id, name, index, value)

    def _write_at(self, list_id: int, name: str, index: int, value: int | str) -> None:
        found = self.get(list_id, name)
        place = len(found) - index if index > 0 else -index - 1
        if not 0 <= place < len(found):
            self.add(list_id, name, value)
            return
        values = found[:]
        values[place] = Avp(bounded(value), found[place].flags)
        self._own(list_id)[name] = values

    def change_flags(self, avp_name: AvpName, set_bits: int, clear_bits: int) -> bool:
        """Set and clear AVP flags on every matching value of the first list that has the name; False when none has."""
        for list_id in avp_name.lists:
            found = self._lists[list_id].get(avp_name.name)
            if found:
                changed = [Avp(avp.value, (avp.flags | set_bits) & ~clear_bits) for avp in found]
                self._own(list_id)[avp_name.name] = changed
                return True
        return False
