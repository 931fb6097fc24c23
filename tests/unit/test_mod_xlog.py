"""Script log lines: levels by their third letter, one line each, limited in length and rate."""

import logging

import pytest
from support.contexts import context, function, request_text

from serpy.modules import xlog


class Collector(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, logger="serpy.script")
    collector = Collector()
    logging.getLogger("serpy.script").addHandler(collector)
    yield collector.records
    logging.getLogger("serpy.script").removeHandler(collector)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param("L_ALERT", logging.CRITICAL, id="alert"),
        pytest.param("L_BUG", logging.CRITICAL, id="bug"),
        pytest.param("L_CRIT", logging.CRITICAL, id="crit"),
        pytest.param("L_ERR", logging.ERROR, id="err"),
        pytest.param("L_E", logging.ERROR, id="one-letter-is-enough"),
        pytest.param("L_WARN", logging.WARNING, id="warn"),
        pytest.param("L_NOTICE", xlog.NOTICE, id="notice"),
        pytest.param("L_INFO", logging.INFO, id="info"),
        pytest.param("L_DEBUG", logging.DEBUG, id="only-the-third-letter-counts"),
        pytest.param("-1", logging.ERROR, id="number"),
        pytest.param("zzz", logging.ERROR, id="unknown-names-are-errors"),
    ],
)
def test_level_names(level, expected, lines):
    assert function(xlog.exports(), "xlog")(context(request_text()), level, "hello\n") == 1
    assert [(record.levelno, record.getMessage()) for record in lines] == [(expected, "<script>: hello")]


def test_without_a_level_a_line_is_an_error(lines):
    function(xlog.exports(), "xlog")(context(request_text()), "hello")
    assert lines[0].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("name", "level"),
    [("xdbg", logging.DEBUG), ("xinfo", logging.INFO), ("xnotice", xlog.NOTICE), ("xwarn", logging.WARNING),
     ("xerr", logging.ERROR), ("xcrit", logging.CRITICAL), ("xalert", logging.CRITICAL)],
)  # fmt: skip
def test_functions_with_a_fixed_level(name, level, lines):
    assert function(xlog.exports(), name)(context(request_text()), "x") == 1
    assert lines[0].levelno == level


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\r\nERROR forged", "a\\r\\nERROR forged", id="line-ends-cannot-forge-a-line"),
        pytest.param("\x1b[2Jx", "\\x1b[2Jx", id="terminal-escapes-are-inert"),
        pytest.param("a\u2028b", "a\\u2028b", id="unicode-line-ends-too"),
        pytest.param("caf\xe9", "caf\xe9", id="letters-stay"),
        pytest.param("x\udcff", "x\\udcff", id="undecodable-bytes-are-escaped"),
    ],
)
def test_text_of_strangers_stays_on_one_line(text, shown):
    assert xlog.printable(text, 100) == shown


def test_long_lines_are_cut(lines):
    exports = xlog.exports()
    exports.module.buf_size = 10
    function(exports, "xerr")(context(request_text()), "x" * 50)
    assert lines[0].getMessage() == "<script>: " + "x" * 10


def test_more_lines_than_the_rate_are_counted_not_written(lines):
    exports = xlog.exports()
    exports.module.rate = 2
    write = function(exports, "xerr")
    for _ in range(5):
        write(context(request_text(), now=100.0), "x")
    assert len(lines) == 2
    write(context(request_text(), now=101.5), "y")
    assert [record.getMessage() for record in lines[2:]] == [
        "3 script log lines suppressed, rate is 2 a second",
        "<script>: y",
    ]
