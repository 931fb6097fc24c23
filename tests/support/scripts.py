"""Script tests: compile text against small fake modules and run it on a real Context."""

from support.contexts import FLOW, LISTENER, reply_text, request_text

from serpy.clock import Clock
from serpy.context.context import ONREPLY, REQUEST, Context
from serpy.errors import BackendError, ConfigError
from serpy.script import compile as compiler
from serpy.script.exports import Arg, Exports, Function, Param, Routes, Select
from serpy.sip.flow import Flow
from serpy.sip.parser import parse_message

S, N, V, F = Arg.STR, Arg.INT, Arg.VALUE, Arg.FORMAT
RFO = Routes.REQUEST | Routes.FAILURE | Routes.ONREPLY
TABLE = {
    "tm": [
        ("t_relay", (S,), 1, Routes.REQUEST | Routes.FAILURE), ("t_relay_cancel", (), 0, Routes.REQUEST),
        ("t_reply", (N, S), 0, RFO), ("t_check_status", (Arg.REGEX,), 0, Routes.FAILURE | Routes.ONREPLY),
        ("t_on_failure", (Arg.ROUTE,), 0, RFO), ("t_on_reply", (Arg.ROUTE,), 0, RFO), ("t_set_fr", (V, V), 1, RFO),
        ("t_newtran", (), 0, Routes.REQUEST),
    ],
    "sl": [("sl_reply", (N, S), 0, Routes.REQUEST), ("sl_reply_error", (), 0, Routes.REQUEST)],
    "rr": [("record_route", (), 0, RFO), ("loose_route", (), 0, Routes.REQUEST)],
    "maxfwd": [("mf_process_maxfwd_header", (N,), 0, Routes.REQUEST)],
    "textops": [
        ("append_hf", (F,), 0, RFO), ("remove_hf", (S,), 0, RFO), ("search", (Arg.REGEX,), 0, RFO),
        ("append_hf_value", (Arg.HEADER, F), 0, RFO), ("append_to_reply", (F,), 0, RFO),
        ("hf_value_exists", (Arg.HEADER, F), 0, RFO), ("include_hf_value", (Arg.HEADER, F), 0, RFO),
        ("assign_hf_value", (Arg.HEADER, F), 0, RFO), ("remove_hf_value", (Arg.HEADER,), 0, RFO),
    ],
    "xlog": [("xlog", (S, F), 0, Routes.ALL)],
    "registrar": [
        ("save_contacts", (S,), 0, Routes.REQUEST), ("save_mem_nr", (S,), 0, Routes.REQUEST),
        ("lookup_contacts", (S,), 0, Routes.REQUEST | Routes.FAILURE),
    ],
    "auth": [("consume_credentials", (), 0, RFO)],
    "auth_db": [("www_authenticate", (V, S), 0, Routes.REQUEST), ("proxy_authenticate", (V, S), 0, Routes.REQUEST)],
    "domain": [("lookup_domain", (Arg.TRACK, V), 0, RFO)],
    "uri_db": [("lookup_user", (Arg.AVP, V), 0, RFO)],
    "avp": [
        ("attr2uri", (Arg.AVP, S), 1, RFO), ("del_attr", (Arg.AVP,), 0, RFO), ("xlset_attr", (Arg.AVP, F), 0, RFO),
        ("replace_attr_hf", (S, Arg.AVP), 0, RFO),
    ],
    "avp_db": [("load_attrs", (Arg.TRACK, V), 0, RFO)],
    "nathelper": [
        ("nat_uac_test", (N,), 0, Routes.REQUEST | Routes.ONREPLY), ("fix_nated_contact", (), 0, RFO),
        ("fix_nated_register", (), 0, RFO), ("force_rtp_proxy", (S,), 1, RFO), ("unforce_rtp_proxy", (), 0, RFO),
    ],
    "options": [("options_reply", (), 0, Routes.REQUEST)],
    "eval": [("eval_push", (Arg.LOC,), 0, Routes.ALL), ("eval_oper", (S, N), 0, Routes.ALL)],
    "usrloc": [],
    "fake": [("f", (V,), 1, Routes.ALL), ("raises", (S,), 0, Routes.ALL)],
}  # fmt: skip
PARAMS = (
    Param("db_url", "str", "", "where"), Param("db_mode", "int", 0, "how"),
    Param("save_nat_flag", "flag", -1, "flag"), Param("declare", "str", "", "list", repeat=True),
    Param("timer_interval", "int", 60, "from 1", check=lambda n: "" if n else "at least 1"),
    Param("limit", "int", 5, "up to 9", check=lambda n: "" if n < 10 else "at most 9"),
)  # fmt: skip


class World:
    """The fake modules. ``calls`` lists (function, arguments); ``results`` says what a function returns."""

    def __init__(self):
        self.calls = []
        self.results = {}
        self.modules = {}

    def load(self, name):
        if name not in TABLE:
            raise ConfigError(f"no module {name!r}", hint='did you mean "tm"?')
        module = type("Fake", (), {})()
        self.modules[name] = module
        functions = tuple(
            Function(word, self._function(word), args, optional, routes, route_kind=_route_kind(word))
            for word, args, optional, routes in TABLE[name]
        )
        selects = (Select("rr.next_route", _constant("sip:next")),) if name == "rr" else ()
        if name == "eval":
            selects = (Select("eval.pop", _constant("0")),)
        return Exports(name, module, functions, PARAMS, selects)

    def modules_with(self, function):
        """Where the loader would say that *function* is."""
        return [name for name, functions in TABLE.items() if any(row[0] == function for row in functions)]

    def environment(self):
        """An Environment of these modules."""
        return compiler.Environment(self.load, modules_with=self.modules_with)

    def _function(self, name):
        def call(ctx, *arguments):
            self.calls.append((name, *arguments))
            if name == "raises":
                raise {"backend": BackendError, "value": ValueError, "key": KeyError}[arguments[0]]("broken")
            result = self.results.get(name, 1)
            if name == "f" and arguments and isinstance(arguments[0], int):
                return arguments[0]
            return result(ctx) if callable(result) else result

        return call

    def names(self):
        return [call[0] for call in self.calls]


def _route_kind(word):
    return {"t_on_failure": "failure_route", "t_on_reply": "onreply_route"}.get(word, "")


def _constant(text):
    return lambda _parts: lambda _ctx: text


def compile_text(text, world=None, *, modules="fake", defines=None):
    """A Program from *text*; *modules* are loaded in front of it, on line 1."""
    world = world or World()
    head = " ".join(f'loadmodule "{name}"' for name in modules.split())
    return compiler.compile_text(f"{head}\n{text}", "test.conf", defines or {}, world.environment())


def context(*headers, reply=False, host="203.0.113.7", **parts):
    """A Context of a request (or reply) that came from *host*."""
    text = reply_text(*headers, **parts) if reply else request_text(*headers, **parts)
    flow = Flow(LISTENER, host, 5062) if host != FLOW.host else FLOW
    return Context(parse_message(text.encode()), flow, Clock(1.0, 1000.0), ONREPLY if reply else REQUEST)


def run(
    body,
    *headers,
    world=None,
    modules="fake",
    flags="flags A : 1, B : 2; avpflags dialog_cookie;",
    before=None,
    lend=None,
    **parts,
):
    """Run *body* as the main route; (context, result). *lend* is given the program's hooks first."""
    world = world or World()
    program = compile_text(f"{flags} route {{\n{body}\n}}", world, modules=modules)
    if lend:
        lend(program.hooks)
    ctx = context(*headers, **parts)
    if before:
        before(ctx)
    return ctx, program.run(ctx, REQUEST)
