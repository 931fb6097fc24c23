"""The parsed script: small records, one per construct, each with its place.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from serpy.script.faults import Position

# ---- expressions


@dataclass
class Node:
    """Anything with a place in the script."""

    position: Position


@dataclass
class Integer(Node):
    """A number or boolean word."""

    value: int


@dataclass
class String(Node):
    """A quoted string, decoded."""

    value: str


@dataclass
class Word(Node):
    """A bare word: a flag, a route, a method, a host name (dotted)."""

    value: str


@dataclass
class Address(Node):
    """An IPv4 or IPv6 address or network as written, without brackets."""

    value: str


@dataclass
class Endpoint(Node):
    """``proto:host:port``; "" and 0 for what is not written."""

    transport: str
    host: str
    port: int


@dataclass
class Core(Node):
    """A core operand: ``method``, ``src_ip``, ``msg:len`` …"""

    name: str


@dataclass
class UriPart(Node):
    """``uri:host`` or ``uri:port``."""

    name: str


@dataclass
class Variable(Node):
    """``$…`` as written."""

    text: str


@dataclass
class SelectRef(Node):
    """``@…`` as written."""

    text: str


@dataclass
class Unary(Node):
    """*operator*: ``-`` ``~`` ``!`` ``defined`` ``strempty`` ``strlen`` ``int`` ``str``."""

    operator: str
    operand: Node
    parenthesised: bool = False


@dataclass
class Binary(Node):
    """Two operands; *operator* as written, with ``and``/``or`` as ``&&``/``||``."""

    operator: str
    left: Node
    right: Node
    parenthesised: bool = False


@dataclass
class Call(Node):
    """A function call. *end* is the place of the closing parenthesis."""

    name: str
    arguments: list[Node]


@dataclass
class AssignExpression(Node):
    """``($x = value)`` used as an operand."""

    target: Variable
    value: Node


# ---- statements


@dataclass
class Block(Node):
    """``{ … }``."""

    body: list[Node]


@dataclass
class If(Node):
    """``if condition then [else]``."""

    condition: Node
    then: Node
    otherwise: Node | None


@dataclass
class While(Node):
    """``while condition body``."""

    condition: Node
    body: Node


@dataclass
class Case(Node):
    """``case label:``; *label* None for ``default``; *pattern*: the label is a regular expression."""

    label: Node | None
    pattern: bool
    body: list[Node]


@dataclass
class Switch(Node):
    """``switch subject { case … }``."""

    subject: Node
    cases: list[Case]


@dataclass
class Assign(Node):
    """``$x = value;``."""

    target: Variable
    value: Node


@dataclass
class Expression(Node):
    """An expression as a statement: a call."""

    value: Node


@dataclass
class Leave(Node):
    """*kind*: ``break`` ``return`` ``drop`` ``exit``."""

    kind: str
    value: Node | None


@dataclass
class Empty(Node):
    """``;``."""


# ---- top level


@dataclass
class Route(Node):
    """A route block. *kind*: "route", "failure_route", "onreply_route", "branch_route", "onsend_route", "event_route"."""

    kind: str
    name: str
    body: list[Node]


@dataclass
class Setting(Node):
    """``name = value`` of a global parameter; *values* has more than one member for ``listen`` and ``alias``."""

    name: str
    values: list[Node]


@dataclass
class CustomVariable(Node):
    """``group.name = value desc "…"``."""

    group: str
    name: str
    value: int | str
    description: str


@dataclass
class LoadModule(Node):
    """``loadmodule "…"``."""

    name: str


@dataclass
class ModParam(Node):
    """``modparam("pattern", "name", value)``."""

    pattern: String
    name: String
    value: Node | None


@dataclass
class FlagNames(Node):
    """``flags`` or ``avpflags``: (name, number or -1, place)."""

    avp: bool
    names: list[tuple[str, int, Position]]


@dataclass
class Script:
    """A whole file with its includes."""

    dialect: str = "default"
    items: list[Node] = field(default_factory=list)
