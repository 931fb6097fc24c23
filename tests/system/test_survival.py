"""What is promised under kill -9: children come back, acknowledged registrations stay (architecture §1.2, §1.3)."""

from __future__ import annotations

import os
import random
import signal

import pytest
from support.load import RegisterLoad
from support.running import Running, wait_for

pytestmark = pytest.mark.system

USERS = [f"u{number}" for number in range(200)]
CHILDREN = 5  # two UDP receivers, timer, store, ctl


@pytest.fixture
def server(tmp_path):
    running = Running(tmp_path).prepare()
    listing = tmp_path / "users"
    listing.write_text("".join(f"{user}@example.com {user}\n" for user in USERS))
    running.ctl("user", "import", str(listing))
    running.start()
    wait_for(lambda: running.is_whole(CHILDREN))
    yield running
    if running.process.poll() is None:
        running.stop()


def replaced(server, title, pid):
    """The child called *title* has another pid than *pid*."""
    return wait_for(lambda: server.children().get(title, pid) != pid)


@pytest.mark.parametrize("kind", ["udp receiver child=0", "udp receiver child=1", "timer", "store", "ctl"])
def test_killed_child_is_replaced_and_no_other_process_changes(server, kind):
    before = server.children()
    title = next(name for name in before if kind in name)
    load = RegisterLoad(server.address, USERS, 100)
    load.start()
    wait_for(lambda: load.acknowledged > 50)
    os.kill(before[title], signal.SIGKILL)
    assert replaced(server, title, before[title])
    after = server.children()
    assert {name: pid for name, pid in after.items() if name != title} == {
        name: pid for name, pid in before.items() if name != title
    }
    seen = load.acknowledged
    wait_for(lambda: load.acknowledged > seen + 50)
    load.finish()
    assert load.gave_up == 0
    assert load.missing() == []


def test_no_counter_goes_back_when_its_process_is_killed(server):
    names = ("core.requests", "sl.2xx", "store.commits", "store.rows")
    load = RegisterLoad(server.address, USERS, 100)
    load.start()
    wait_for(lambda: min(server.json("stats")[name] for name in names) > 20)
    load.finish()
    seen = server.json("stats")
    for title, pid in server.children().items():
        os.kill(pid, signal.SIGKILL)
        assert replaced(server, title, pid)
    load = RegisterLoad(server.address, USERS, 100, after=load)
    load.start()
    wait_for(lambda: load.acknowledged > 100)
    load.finish()
    after = server.json("stats")
    assert {name: (seen[name], after[name]) for name in names if after[name] < seen[name]} == {}


def test_random_kills_lose_no_acknowledged_binding(server):
    chance = random.Random(20261124)
    load = RegisterLoad(server.address, USERS, 150)
    load.start()
    for _ in range(15):
        seen = load.acknowledged
        children = server.children()
        os.kill(chance.choice(list(children.values())), signal.SIGKILL)
        wait_for(lambda: load.acknowledged > seen + 20)  # noqa: B023 - used at once
        wait_for(lambda: server.is_whole(CHILDREN))  # one that dies before it is ready has to wait for its successor
    load.finish()
    assert load.gave_up == 0
    assert load.missing() == []


def test_kill_of_the_whole_group_loses_no_acknowledged_binding(server):
    load = RegisterLoad(server.address, USERS, 300)
    load.start()
    wait_for(lambda: load.acknowledged > 150)
    server.kill()
    load.abandon()
    server.start()
    assert load.missing() == []


def test_children_leave_when_the_master_is_killed(server):
    pids = list(server.children().values())
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()

    def gone():
        return not any(os.path.exists(f"/proc/{pid}") for pid in pids)  # noqa: PTH110 - a pid, not a path

    assert wait_for(gone)
