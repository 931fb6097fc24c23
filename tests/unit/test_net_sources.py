"""How many connections each source has, and whose is missed least."""

from __future__ import annotations

import random

import pytest

from serpy.net.sources import Sources, SourceTable, source_of


class Link:
    """What of a connection counts here."""

    def __init__(self, number, host, used_at=0.0, *, idle=True):
        self.id = number
        self.host = host
        self.opened_at = 0.0
        self.used_at = used_at
        self.is_idle = idle


@pytest.mark.parametrize(
    ("host", "source"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", id="ipv4"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="ipv6"),
        pytest.param("2001:db8:1:2::", "2001:db8:1:2::/64", id="same-network"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", id="mapped"),
        pytest.param("fe80::1%eth0", "fe80::/64", id="zone"),
        pytest.param("::1", "::/64", id="loopback"),
        pytest.param("no:address", "no:address", id="none"),
    ],
)
def test_connections_are_counted_for_an_address_or_a_whole_ipv6_network(host, source):
    assert source_of(host) == source


def test_the_source_with_most_strangers_is_the_worst_whatever_came_and_went():
    sources = Sources(None)
    rng = random.Random(7)
    links = {}
    strangers = {}
    for step in range(3000):
        if links and rng.random() < 0.48:
            number = rng.choice(list(links))
            link, known = links[number]
            if not known and rng.random() < 0.2:
                sources.proved(link)
                links[number] = (link, True)
                strangers[link.host] -= 1
                continue
            if not known and rng.random() < 0.3:
                sources.spoke(link)
                continue
            sources.remove(link)
            del links[number]
            strangers[link.host] -= not known
        else:
            link = Link(step, f"192.0.2.{rng.randint(1, 20)}")
            links[step] = (link, False)
            sources.add(link)
            strangers[link.host] = strangers.get(link.host, 0) + 1
        worst = sources.worst()
        most = max(strangers.values(), default=0)
        assert (worst.strangers if worst else 0) == most
        assert all(sources.of(host).strangers == count for host, count in strangers.items())
    for link, _ in links.values():
        sources.remove(link)
    assert (len(sources), sources.worst()) == (0, None)


def test_of_those_that_have_spoken_the_longest_idle_is_missed_least():
    sources = Sources(None)
    links = [Link(1, "a", 5.0), Link(2, "a", 3.0), Link(3, "a", 1.0, idle=False), Link(4, "a", 9.0), Link(5, "a")]
    for link in links:
        sources.add(link)
    source = sources.of("a")
    for link in links[:4]:
        sources.spoke(link)
    assert source.oldest_silent() is links[4]
    sources.remove(links[4])
    assert source.oldest_silent() is None
    gone = []
    while (link := source.longest_idle()) is not None:
        sources.remove(link)
        gone.append(link.id)
    assert gone == [2, 1, 4]  # 3 waits for an answer
    assert source.longest_idle(busy=True) is links[2]


def test_known_users_raise_what_their_source_may_have():
    sources = Sources(None)
    allowed = []
    for number in range(31):
        allowed.append(sources.of("office").allowance(100, 1))
        link = Link(number, "office")
        sources.add(link)
        sources.proved(link)
    assert (allowed[0], allowed[9], allowed[10], allowed[30]) == (100, 100, 200, 400)
    assert sources.strangers(sources.of("office")) == 0


def test_processes_see_what_the_others_have_of_a_source_and_a_successor_starts_with_none():
    memory = memoryview(bytearray(SourceTable.size(3)))
    tables = [SourceTable(memory, 3) for _ in range(3)]
    for child, table in enumerate(tables):
        table.attach(child)
    every = [Sources(table) for table in tables]
    for number in range(9):
        every[number % 3].add(Link(number, "192.0.2.1"))
    every[1].add(Link(10, "192.0.2.2"))
    assert [one.strangers(one.of("192.0.2.1")) for one in every] == [9, 9, 9]
    assert every[0].strangers(every[0].of("192.0.2.2")) == 1
    SourceTable(memory, 3).attach(1)
    assert every[0].strangers(every[0].of("192.0.2.1")) == 6
