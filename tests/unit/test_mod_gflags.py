import pytest
from support.contexts import context, function, request_text
from support.identity import Identity, rpc

from serpy.api import STORE
from serpy.context.avps import GLOBAL, parse_avp_name
from serpy.errors import BackendError, UsageError
from serpy.modules import gflags


@pytest.fixture
def identity(tmp_path):
    found = Identity(tmp_path)
    found.insert("global_attrs", name="gw_ip", type=2, value="192.0.2.5", flags=33)
    found.insert("global_attrs", name="hidden", type=2, value="x", flags=32)
    return found


def load(identity, **params):
    exports = identity.load(gflags, **{"load_global_attrs": 1, **params})
    identity.start()
    return exports


def begin(identity):
    """A message as it reaches the script."""
    ctx = context(request_text())
    assert all(hook(ctx) for hook in identity.server.hooks.pre_script)
    return ctx


def test_every_message_starts_with_the_global_attributes(identity):
    load(identity)
    ctx = begin(identity)
    assert ctx.avps.read(parse_avp_name("$gw_ip")) == "192.0.2.5"
    assert ctx.avps.get(GLOBAL, "hidden") == []


def test_without_the_parameter_nothing_is_loaded(identity):
    load(identity, load_global_attrs=0)
    assert identity.server.hooks.pre_script == []
    assert identity.selects == 0


def test_reload_reaches_the_next_message_and_a_dead_database_changes_nothing(identity):
    exports = load(identity)
    identity.insert("global_attrs", name="replicate", type=0, value="1", flags=33)
    assert begin(identity).avps.newest(GLOBAL, "replicate") is None
    assert rpc(exports, "global.reload")()["attributes"] > 1
    assert begin(identity).avps.newest(GLOBAL, "replicate") == 1
    identity.broken = True
    with pytest.raises(BackendError):
        rpc(exports, "global.reload")()
    identity.server.counters.bump("global_attrs")
    assert begin(identity).avps.newest(GLOBAL, "replicate") == 1


def test_messages_go_on_without_global_attributes_while_they_cannot_be_loaded(identity):
    identity.broken = True
    load(identity)
    assert begin(identity).avps.items(GLOBAL) == []


def test_flags_are_set_cleared_and_tested(identity):
    exports = load(identity, initial=4)
    assert [function(exports, "is_gflag")(None, flag) for flag in (2, 3)] == [1, -1]
    assert function(exports, "set_gflag")(None, 31) == 1
    assert function(exports, "reset_gflag")(None, 2) == 1
    assert rpc(exports, "gflags.dump")() == 1 << 31
    assert rpc(exports, "gflags.is_set")(31) == 1
    rpc(exports, "gflags.set")(0)
    rpc(exports, "gflags.reset")(31)
    assert rpc(exports, "gflags.dump")() == 1


@pytest.mark.parametrize("flag", [-1, 32])
def test_there_are_32_flags(identity, flag):
    exports = load(identity)
    assert function(exports, "set_gflag")(None, flag) == -1
    assert function(exports, "is_gflag")(None, flag) == -1
    with pytest.raises(UsageError):
        rpc(exports, "gflags.set")(flag)


def test_flushed_flags_are_there_after_a_restart(identity, tmp_path):
    class Store:
        def write(self, operations, *, wait, url=""):
            identity.admin.write(operations)

    exports = load(identity)
    assert function(exports, "flush_gflags")(None) == -1  # nobody to write
    identity.server.provide(STORE, Store())
    function(exports, "set_gflag")(None, 5)
    function(exports, "flush_gflags")(None)
    rpc(exports, "gflags.flush")()
    assert identity.admin.select("global_attrs", ("value",), {"name": "gflags"}) == [("32",)]
    identity.server.hooks.pre_script.clear()
    identity.server.segment._areas.pop("gflags")
    again = load(identity)
    assert function(again, "is_gflag")(None, 5) == 1
