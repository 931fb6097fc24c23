"""What SER's published Out-of-Box files do that nobody else should: they load all the same."""

import pytest
from support.scripts import World

from serpy.script.compile import Environment, ScriptErrors, compile_script


def compiled(tmp_path, text, **defines):
    path = tmp_path / "odd.cfg"
    path.write_text(text)
    return compile_script(str(path), defines, Environment(World().load))


UNCLOSED = 'loadmodule "sl"\nroute {\n  exit;\n}\n#!ifdef WITH_XMLRPC\nroute[XMLRPC] {\n  return;\n}\n'


@pytest.mark.parametrize("defines", [{}, {"WITH_XMLRPC": ""}], ids=["skipped", "kept"])
def test_a_conditional_that_ends_with_the_file_is_a_warning(tmp_path, defines):
    program = compiled(tmp_path, UNCLOSED, **defines)
    assert [text.partition(": ")[2] for text in program.warnings] == [
        "this conditional is never closed: it ends with the file"
    ]


def test_a_conditional_that_swallows_the_main_route_is_an_error(tmp_path):
    with pytest.raises(ScriptErrors, match="never closed"):
        compiled(tmp_path, 'loadmodule "sl"\n#!ifdef WITH_TLS\nroute {\n  exit;\n}\n')


@pytest.mark.parametrize(
    ("written", "meant"),
    [("192.0.2.1:5062", "192.0.2.1:5062"), ("192.0.2.1", "192.0.2.1"), ("[2001:db8::1]:5062", "[2001:db8::1]:5062")],
    ids=["address-and-port", "address", "ipv6"],
)
def test_a_define_that_is_an_address_is_a_value_where_text_is_wanted(tmp_path, written, meant):
    program = compiled(tmp_path, "route {\n  rewritehostport(PEER);\n}\n", PEER=written)
    assert repr(meant) in "".join(program.listings.values())
