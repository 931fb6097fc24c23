"""db_ops: queries and handles of the script, against a real SQLite file."""

import time

import pytest
from support.contexts import context, request_text
from support.identity import Identity
from support.scripts import World

from serpy.api import STORE
from serpy.context.avps import FROM_USER
from serpy.context.context import BRANCH, ONREPLY, REQUEST
from serpy.db.idioms import portable
from serpy.errors import BackendError, ConfigError
from serpy.modules import db_ops
from serpy.script import compile as compiler
from serpy.script.faults import ScriptErrors

HEAD = 'loadmodule "db_ops" loadmodule "fake" modparam("db_ops", "db_url", "{url}")\n'


class Store:
    """Writes at once, as the store does after its commit."""

    def __init__(self, identity):
        self.identity = identity
        self.operations = []

    def write(self, operations, *, wait, url=""):
        assert wait
        assert url == self.identity.url
        self.operations.extend(operations)
        self.identity.admin.write(operations)


class Scripts(World):
    """One SQLite file, the real db_ops, and the fake module whose ``f("x")`` notes what it is given."""

    def __init__(self, folder):
        super().__init__()
        self.identity = Identity(folder)
        self.identity.server.open_database = lambda url: self.identity.driver.open(url, read_only=True)
        self.store = Store(self.identity)
        self.identity.server.provide(STORE, self.store)

    def load(self, name):
        if name != "db_ops":
            return super().load(name)
        self.exports = db_ops.exports()
        return self.exports

    def compile(self, text):
        text = HEAD.format(url=self.identity.url) + text
        self.program = compiler.compile_text(text, "test.conf", {}, compiler.Environment(self.load))
        server = self.identity.server
        server.program = self.program
        self.exports.init(server)
        server.slot = 0
        self.exports.child_init(server)

    def run(self, body, ctx=None, *, top="", kind=REQUEST):
        self.compile(f"{top}\nroute {{\n{body}\n}}")
        self.calls.clear()
        ctx = ctx or context(request_text())
        self.result = self.program.run(ctx, kind)
        return ctx

    def noted(self):
        return [call[1] for call in self.calls]


@pytest.fixture
def scripts(tmp_path):
    found = Scripts(tmp_path)
    for number, name in enumerate(("alice", "bob", "carol")):
        found.identity.insert("uri", uid=f"u{number}", did="d1", username=name, flags=57 + number)
    return found


HANDLE = 'modparam("db_ops", "declare_handle", "h")'
PICK = 'if (db_query("{}", "h")) {{ f(@db.fetch.h); }} else {{ f("nothing"); }}'


@pytest.mark.parametrize(
    ("query", "first"),
    [
        pytest.param("select uid from uri where username='bob'", "u1", id="sql"),
        pytest.param("SELECT uid FROM uri WHERE username='bob';", "u1", id="sql-in-capitals-with-an-end"),
        pytest.param("select uid from uri where username='nobody'", "nothing", id="no-row-is-false"),
        pytest.param("select count(*) from uri", "3", id="a-number-is-text"),
        pytest.param("select 'it''s 100%%' from uri", "it's 100%", id="doubled-quotes-and-percent-signs"),
        pytest.param("select/uri/uid/username/=/uid/bob", "u1", id="slash"),
        pytest.param("select/uri/uid,flags/username,flags/=,>/uid desc/s:carol,i:40", "u2", id="slash-with-types"),
        pytest.param("select/uri/uid/flags/>//i:57", "u1", id="slash-without-order"),
        pytest.param("select/uri/uid///uid desc", "u2", id="slash-without-conditions"),
        pytest.param("select/uri/*/username///'bob'", "u1", id="slash-star-and-quotes"),
        pytest.param("select/uri/uid/username///%$f.who", "u2", id="slash-value-of-an-attribute"),
        pytest.param("select uid from uri where username='%$f.who'", "u2", id="attribute-in-quotes"),
        pytest.param("select uid from uri where username=%$f.who", "u2", id="attribute-without-quotes"),
        pytest.param("select uid from uri where flags=%$f.number", "u0", id="number-without-quotes"),
        pytest.param("select uid from uri where username like '%$f.part%%'", "u2", id="attribute-inside-a-text"),
        pytest.param("select '%$f.none'", "<null>", id="undefined-in-quotes"),
        pytest.param("select 1 where %$f.none is null", "1", id="undefined-without-quotes"),
    ],
)
def test_queries_find_rows(scripts, query, first):
    ctx = context(request_text())
    for name, value in (("who", "carol"), ("number", 57), ("part", "car")):
        ctx.avps.add(FROM_USER, name, value)
    scripts.run(
        PICK.replace("{}", query.replace("%$f.", "%$fu.")).replace("{{", "{").replace("}}", "}"), ctx, top=HANDLE
    )
    assert scripts.noted() == [first]


EVIL = "x' or '1'='1"


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("select uid from uri where username='%$fu.evil'", id="in-quotes"),
        pytest.param("select uid from uri where username=%$fu.evil", id="without-quotes"),
        pytest.param("select uid from uri where username='a%$fu.evil'", id="inside-a-text"),
        pytest.param("select/uri/uid/username///%$fu.evil", id="slash"),
        pytest.param("select/uri/uid/username///'%$fu.evil'", id="slash-in-quotes"),
    ],
)
@pytest.mark.parametrize("evil", [EVIL, "x/y,z", "'; delete from uri; --", "\\' or 1=1 --", "u'", '" or 1=1'])
def test_what_a_caller_sends_stays_a_value(scripts, query, evil):
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "evil", evil)
    scripts.run(PICK.replace("{}", query).replace("{{", "{").replace("}}", "}"), ctx, top=HANDLE)
    assert scripts.noted() == ["nothing"]
    assert scripts.identity.admin.execute("select count(*) from uri") == [(3,)]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        pytest.param("delete from uri where username='%$fu.who'", ["alice", "bob"], id="sql-delete"),
        pytest.param("update uri set username='x''y' where uid='u1'", ["alice", "carol", "x'y"], id="sql-update"),
        pytest.param("delete/uri/username/=/carol", ["alice", "bob"], id="slash-delete"),
        pytest.param("delete/uri/flags/>/i:57", ["alice"], id="slash-delete-compared"),
        pytest.param(
            "insert/uri/uid,did,username/u9,d1,%$fu.who", ["alice", "bob", "carol", "carol"], id="slash-insert"
        ),
        pytest.param("update/uri/username/uid/=/dave,u1", ["alice", "carol", "dave"], id="slash-update"),
        pytest.param("update/uri/username,flags/uid,flags/=,</'a,b/c',i:1,u1,i:99", ["a,b/c", "alice", "carol"], id="quoted"),
    ],
)  # fmt: skip
def test_changes_go_through_the_store(scripts, query, left):
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "who", "carol")
    scripts.run(f'if (db_query("{query}")) {{ f("done"); }}', ctx)
    assert scripts.noted() == ["done"]
    assert len(scripts.store.operations) == 1
    rows = scripts.identity.admin.execute("select username from uri order by username")
    assert [name for (name,) in rows] == left


def test_replace_writes_over_the_row_of_the_same_key(scripts):
    query = "replace/global_attrs/name,type,value,flags/lang,i:2,%$fu.lang,i:33"
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "lang", "en")
    scripts.run(f'db_query("{query}");', ctx)
    rows = scripts.identity.admin.execute("select value, flags from global_attrs where name='lang'")
    assert rows == [("en", 33)]


def test_times_of_the_slash_syntax_are_unix_seconds(scripts):
    scripts.run('db_query("insert/location/uid,aor,contact,expires/u1,a,c,t:1700000000");')
    rows = scripts.identity.admin.execute("select expires from location")
    assert rows == [("2023-11-14 22:13:20",)]
    scripts.run('db_query("update/location/expires/expires/=/t:1700000001,t:1700000000");')
    assert scripts.identity.admin.execute("select expires from location") == [("2023-11-14 22:13:21",)]


def test_the_published_purge_and_reload_test_run_as_they_are(scripts):
    now = int(time.time())
    admin = scripts.identity.admin
    scripts.identity.insert("location", uid="a", aor="a", contact="old", expires=now - 5)
    scripts.identity.insert("location", uid="a", aor="a", contact="new", expires=now + 500)
    reload_test = (
        "select value from global_attrs where name='domain_data_version' and type=0 and cast(value as unsigned int)"
        " between unix_timestamp(now())-120 and unix_timestamp(now())"
    )
    body = f"""
        db_query("delete from location where expires<utc_timestamp()");
        db_query("{reload_test}", "reload");
        if (@db.fetch.reload.count=="1") {{ f("reload"); }} else {{ f("quiet"); }}
        db_close("reload");
        if (defined @db.fetch.reload.count) {{ f("open"); }}
    """
    top = 'modparam("db_ops", "declare_handle", "reload")'
    scripts.run(body, top=top)
    assert scripts.noted() == ["quiet"]
    assert admin.execute("select contact from location") == [("new",)]
    admin.execute("update global_attrs set value = ? where name = 'domain_data_version'", (str(now - 60),))
    scripts.run(body, top=top)
    assert scripts.noted() == ["reload"]


def test_a_handle_walks_over_its_rows(scripts):
    scripts.run(
        """
        db_query("select uid, username from uri order by uid", "h");
        f(@db.fetch.h.count); f(@db.fetch.h.is_empty); f(@db.fetch.h.row_no);
        if (db_next("h")) { f(@db.fetch.h.field[1]); }
        f(@db.fetch.h.row_no); f(@db.fetch.h.row[2].field[1]); f(@db.fetch.h.row[-1]);
        if (db_seek("h", 2)) { f(@db.fetch.h.field[-1]); }
        if (!db_next("h")) { f("last"); }
        if (!db_seek("h", "7")) { f("no row 7"); }
        if (db_first("h")) { f(@db.fetch.h.field); }
        if (!defined @db.fetch.h.field[9]) { f("no field 9"); }
        """,
        top=HANDLE,
    )
    assert scripts.noted() == [
        "3", "0", "0", "bob", "1", "carol", "u2", "carol", "last", "no row 7", "u0", "no field 9",
    ]  # fmt: skip


def test_handles_of_the_first_release_are_numbers_and_need_no_declaration(scripts):
    scripts.run("""
        db_query("select uid from uri where uid='u0'", 0);
        f(@db.fetch[0].count); f(@db.fetch[0].field[0]);
        db_close(0);
        if (!defined @db.fetch[0].count) { f("closed"); }
    """)
    assert scripts.noted() == ["1", "u0", "closed"]


def test_an_empty_result_is_open_and_empty(scripts):
    scripts.run(
        """
        db_query("select uid from uri where uid='none'", "h");
        f(@db.fetch.h.count); f(@db.fetch.h.is_empty);
        if (!defined @db.fetch.h) { f("no value"); }
        if (!db_first("h") && !db_foreach("h", "ROW")) { f("no row"); }
        """,
        top=HANDLE + '\nroute[ROW] { f("row"); return; }',
    )
    assert scripts.noted() == ["0", "1", "no value", "no row"]


def test_a_route_is_run_for_each_row_until_one_is_false(scripts):
    top = HANDLE + '\nroute[ROW] { f(@db.fetch.h.field[0]); if (@db.fetch.h.row_no == "1") { return -1; } return 1; }'
    body = 'db_query("select uid from uri order by uid", "h"); if (!db_foreach("h", "ROW")) { f("stopped"); }'
    scripts.run(body, top=top)
    assert scripts.noted() == ["u0", "u1", "stopped"]


def test_exit_in_the_route_of_a_row_ends_the_script(scripts):
    top = HANDLE + '\nroute[ROW] { f("row"); exit; }'
    scripts.run('db_query("select uid from uri", "h"); db_foreach("h", "ROW"); f("after");', top=top)
    assert scripts.noted() == ["row"]


def test_handles_are_closed_when_the_script_ends(scripts):
    ctx = scripts.run('db_query("select uid from uri", "h");', top=HANDLE)
    assert ctx.notes
    for after in scripts.identity.server.hooks.post_script[:1]:
        after(ctx)
    assert not ctx.notes


def test_declared_queries_run_by_their_id_and_in_selects(scripts):
    top = """
        modparam("db_ops", "declare_query", "who=select/uri/uid,username/username///%$fu.who")
        modparam("db_ops", "declare_query", "all = select uid from uri order by uid desc")
        modparam("db_ops", "declare_handle", "h")
    """
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "who", "bob")
    scripts.run(
        """
        if (db_query("who", "h")) { f(@db.fetch.h); }
        f(@db.query.all); f(@db.query.all.count); f(@db.query.who.field[1]); f(@db.query.all.row[1]);
        f(@db.query["select flags from uri where uid='u2'"].field[0]);
        """,
        ctx,
        top=top,
    )
    assert scripts.noted() == ["u1", "u2", "3", "bob", "u1", "59"]


@pytest.mark.parametrize("kind", [BRANCH, ONREPLY])
def test_a_select_that_would_wait_is_undefined_where_nothing_may_wait(scripts, kind):
    read = scripts_reader(scripts, "select uid from uri")
    ctx = context(request_text(), kind=kind)
    assert read(ctx) is None
    ctx.kind = REQUEST
    assert read(ctx) == "3"


def scripts_reader(scripts, query):
    scripts.run("f(1);")
    return scripts.exports.module.select_query((query, "count"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param('db_query("%$fu.sql");', "begins with constant text", id="query-from-a-caller"),
        pytest.param('db_query("select `%$fu.x` from uri");', "single quotes", id="value-as-a-name"),
        pytest.param('db_query("select \\"%$fu.x\\" from uri");', "single quotes", id="value-in-double-quotes"),
        pytest.param('db_query("select 1 -- %$fu.x");', "single quotes", id="value-in-a-comment"),
        pytest.param('db_query("select 1; delete from uri");', "one statement", id="two-statements"),
        pytest.param('db_query("select uid from uri where uid=?");', "question mark", id="question-mark"),
        pytest.param("db_query(\"select 'x\");", "no end", id="text-without-end"),
        pytest.param('db_query("explode/uri/uid");', "unknown operation", id="unknown-operation"),
        pytest.param('db_query("frobnicate the table");', "no SQL statement", id="no-sql"),
        pytest.param('db_query("select/uri/uid/username//");', "1 values are needed", id="value-missing"),
        pytest.param('db_query("select/u-ri/uid");', "not a usable", id="bad-table"),
        pytest.param('db_query("select/uri/uid/uid/~//1");', "unknown comparison", id="bad-comparison"),
        pytest.param('db_query("select/nothere/*");', "name the fields", id="star-of-an-unknown-table"),
        pytest.param('db_query("replace/uri/uid/x");', "key", id="replace-without-key"),
        pytest.param('db_query("select/uri/%$fu.x");', "must be constant", id="field-from-a-caller"),
        pytest.param('db_query("select %zz");', "unknown specifier", id="unknown-specifier"),
        pytest.param("f(@db.fetch[-1].count);", "write @db.fetch.HANDLE", id="negative-handle"),
        pytest.param("f(@db.fetch.h.colour);", "unknown part", id="unknown-part-of-a-result"),
        pytest.param('f(@db.query["delete from uri"].count);', "cannot change rows", id="select-that-writes"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_an_error_at_load_time(scripts, body, message):
    with pytest.raises(ScriptErrors) as caught:
        scripts.run(body, top=HANDLE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("body", "top", "message"),
    [
        pytest.param('db_query("who");', "", "no query 'who' is declared", id="query"),
        pytest.param('db_close("h");', "", "no handle 'h' is declared", id="handle"),
        pytest.param("f(@db.fetch.x.count);", "", "no handle 'x' is declared", id="handle-of-a-select"),
        pytest.param("f(1);", 'modparam("db_ops", "declare_query", "a=select/uri")', "the fields are", id="bad-query"),
        pytest.param("f(1);", 'modparam("db_ops", "declare_query", "select/uri/uid")', "has no id", id="no-id"),
    ],
)
def test_names_must_be_declared(scripts, body, top, message):
    with pytest.raises(ConfigError, match=message):
        scripts.run(body, top=top)


def test_a_database_that_refuses_makes_the_call_false(scripts):
    scripts.run('if (!db_query("select nothing from nowhere")) { f("false"); }')
    assert scripts.noted() == ["false"]


def test_without_a_store_nothing_is_written(scripts):
    scripts.identity.server._services.clear()
    scripts.run('if (!db_query("delete from uri")) { f("false"); }')
    assert scripts.noted() == ["false"]
    assert scripts.identity.admin.execute("select count(*) from uri") == [(3,)]


def test_text_where_a_number_must_be_makes_the_call_false(scripts):
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "n", "twelve")
    scripts.run('if (!db_query("delete/uri/flags/=/i:%$fu.n")) { f("false"); }', ctx)
    assert scripts.noted() == ["false"]


def test_nobody_may_write_through_a_handle_for_reading(scripts):
    with pytest.raises(BackendError):
        scripts.identity.server.database(scripts.identity.url).execute("delete from uri")


@pytest.mark.parametrize(
    ("sql", "postgres"),
    [
        pytest.param("delete from `t` where `a``b`=1", 'delete from "t" where "a""b"=1', id="backticks"),
        pytest.param("select utc_timestamp()", "select (now() at time zone 'utc')", id="utc-timestamp"),
        pytest.param(
            "select unix_timestamp(now())-120", "select cast(extract(epoch from (now())) as bigint)-120", id="unix-time"
        ),
        pytest.param("select UNIX_TIMESTAMP ( )", "select cast(extract(epoch from (now())) as bigint)", id="empty"),
        pytest.param(
            "select cast(f(a, b) as unsigned  int)",
            "select coalesce(cast(substring(cast((f(a, b)) as text) from '^ *([+-]?[0-9]{1,18})') as bigint), 0)",
            id="cast",
        ),
        pytest.param("select cast(a as text)", "select cast(a as text)", id="another-cast"),
        pytest.param("select 'utc_timestamp() `x`'", "select 'utc_timestamp() `x`'", id="inside-a-text"),
        pytest.param("select cast from utc_timestamp", "select cast from utc_timestamp", id="only-names"),
    ],
)
def test_mysql_idioms_are_rewritten_for_postgresql_only(sql, postgres):
    assert portable(sql, "postgres") == postgres
    assert portable(sql, "sqlite") == sql
    assert portable(sql, "mysql") == sql
