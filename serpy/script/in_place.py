"""Calls that are written out in place: flags, ``route``, ``force_send_socket``, ``forward``.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from serpy.context.avps import parse_avp_name
from serpy.script import builtins, tree
from serpy.script.arguments import BadArgumentError, flag_number
from serpy.script.check import called_route
from serpy.script.coder import Coder
from serpy.script.exports import Routes
from serpy.script.faults import did_you_mean


def call_in_place(coder: Coder, node: tree.Call, name: str) -> str:
    """Emit the call of one of ``builtins.IN_PLACE``; the variable that holds its result."""
    result = coder.out.temporary()
    if name in builtins.PURE:
        coder.out.emit(f"{result} = 1 if {pure_call(coder, node)} else -1", node.position)
    elif not _arity(coder, node, name):
        coder.out.emit(f"{result} = 1", node.position)
    elif name == "route":
        _route(coder, node, result)
    elif name == "force_send_socket":
        _send_socket(coder, node, result)
    else:
        _forward(coder, node, name, result)
    return result


def _arity(coder: Coder, node: tree.Call, name: str) -> bool:
    fewest, most = builtins.IN_PLACE[name]
    count = len(node.arguments)
    if fewest <= count <= most:
        return True
    wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
    coder.fault(node.position, f"{node.name} takes {wanted} argument{'' if wanted == '1' else 's'}, not {count}")
    return False


# ---- flags


def pure_call(coder: Coder, node: tree.Call) -> str:
    """Setflag and its family as a condition; they leave ``$?`` alone."""
    name = node.name
    if not _arity(coder, node, name):
        return "True"
    try:
        if "avpflag" in name:
            return _avp_flag(coder, node, name)
        number = flag_number(coder, node.arguments[0])
    except (BadArgumentError, ValueError) as error:
        hint = error.hint if isinstance(error, BadArgumentError) else ""
        coder.fault(node.arguments[0].position, str(error), hint)
        return "True"
    if name == "isflagset":
        return f"ctx.flags & {1 << number}"
    change = f"ctx.flags |= {1 << number}" if name == "setflag" else f"ctx.flags &= {~(1 << number)}"
    coder.out.emit(change, node.position)
    return "True"


def _avp_flag(coder: Coder, node: tree.Call, name: str) -> str:
    target, flag = node.arguments
    text = target.text if isinstance(target, tree.Variable) else target.value if isinstance(target, tree.String) else ""
    avp = coder.unit.constant(parse_avp_name(text), "avp")
    word = flag.value if isinstance(flag, (tree.String, tree.Word)) else ""
    avpflags = coder.unit.environment.avpflags
    bit = avpflags.get(word.lower())
    if bit is None:
        hint = did_you_mean(word, avpflags) or f"declare it: avpflags {word};"
        coder.fault(flag.position, f"unknown AVP flag {word!r}", hint)
        return "True"
    if name == "isavpflagset":
        return f"avp_flag_set(ctx, {avp}, {1 << bit})"
    change = f"{1 << bit}, 0" if name == "setavpflag" else f"0, {1 << bit}"
    result = coder.out.temporary()
    coder.out.emit(f"{result} = ctx.avps.change_flags({avp}, {change})", node.position)
    return result


# ---- routes and addresses


def _route(coder: Coder, node: tree.Call, result: str) -> None:
    out, unit = coder.out, coder.unit
    name = called_route(node)
    if name is None:
        out.emit(f"{result} = call_route(ctx, {coder.as_str(node.arguments[0])})", node.position)
        out.emit_route_end(result, node.position)
        return
    name = "" if name == "0" else name
    known = unit.route_names("route")
    if name not in known:
        other = unit.kinds_with(name)
        hint = did_you_mean(name, known) or (f"{other[0]}[{name}] is not a plain route" if other else "")
        place = node.arguments[0].position
        coder.fault(place, f"no route[{name}] in this script", hint or f"add: route[{name}] {{ … }}")
        out.emit(f"{result} = 1", node.position)
        return
    recursive = unit.graph.recurses(out.route, name)
    out.emit_route_call(result, unit.function_of("route", name), node.position, recursive=recursive)


def _send_socket(coder: Coder, node: tree.Call, result: str) -> None:
    argument = node.arguments[0]
    transport, host, port = "", "", 0
    if isinstance(argument, tree.Endpoint):
        transport, host, port = argument.transport, argument.host, argument.port
    elif isinstance(argument, (tree.Address, tree.Word, tree.String)):
        host = argument.value
    else:
        coder.fault(argument.position, "expected an address", "for example: udp:192.0.2.1:5060")
    coder.unit.send_sockets.append((transport, host, port, argument.position))
    call = f"force_send_socket(ctx, {transport!r}, {host!r}, {port})"
    coder.out.emit_call(result, call, node.name, node.position, guarded=False)


def _forward(coder: Coder, node: tree.Call, name: str, result: str) -> None:
    coder.check_kind(node, name, Routes.REQUEST | Routes.FAILURE)
    transport = {"forward": "", "forward_udp": "udp", "forward_tcp": "tcp", "forward_tls": "tls"}[name]
    arguments = ['""', "0"]
    for place, argument in enumerate(node.arguments):
        if isinstance(argument, tree.Endpoint):
            arguments = [repr(argument.host), repr(argument.port)]
        elif isinstance(argument, tree.Word):
            arguments[place] = repr(argument.value)
        else:
            arguments[place] = coder.value(argument).text
    call = f"forward_to(ctx, {', '.join(arguments)}, {transport!r})"
    coder.out.emit_call(result, call, name, node.position, guarded=True)
