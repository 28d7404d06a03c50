"""The parts of `dbha serve` that need no cluster: its watch, its reload, its words to systemd."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dbha.config import Configuration, SecretSource, load_configuration
from dbha.errors import ConfigurationError
from dbha.health.board import Part, Update
from dbha.health.observation import Look, Observation
from dbha.journal import Journal
from dbha.serve.changes import changes, taken_up
from dbha.serve.notify import Notifier
from dbha.serve.process import listen
from dbha.serve.serving import Serving
from dbha.serve.watch import Watch
from dbha.serve.web import as_header
from dbha.upgrade.site import Site as RealSite
from tests.unit.backup_site import Site

SOON_S = 20.0


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def saying(name: str, words: str, wait: threading.Event | None = None) -> Part:
    """Return a part whose look has these words as its problem, once it may end."""

    def look(_: Observation) -> Update:
        if wait:
            wait.wait(SOON_S)
        return lambda now: replace(now, archive=Look(problem=words))

    return Part(name, 0.01, look)


def test_a_part_that_hangs_holds_up_no_other() -> None:
    looks: list[float] = []

    def look(_: Observation) -> Update:
        looks.append(time.monotonic())
        return lambda now: now

    hanging = threading.Event()
    watch = Watch(Observation("lab"), [Part("nodes", 0.01, look), saying("archive", "late", hanging)])
    watch.start()
    until(lambda: len(looks) > 5)
    assert watch.observation.archive.problem == "no answer yet"
    hanging.set()
    until(lambda: watch.observation.archive.problem == "late")
    watch.stop()


def test_what_an_old_generation_still_sees_is_not_used() -> None:
    hanging = threading.Event()
    nodes = Part("nodes", 0.01, lambda _: lambda now: now)
    old = Watch(Observation("lab", stores={"gone": Look()}), [nodes, saying("archive", "old", hanging)])
    old.start()
    new = Watch(old.observation, [nodes, saying("archive", "new"), saying("store:local", "new")])
    new.start()
    closed: list[bool] = []
    old.stop(then=lambda: closed.append(True))
    until(lambda: new.observation.archive.problem == "new")
    assert not closed
    hanging.set()
    until(lambda: bool(closed))
    assert new.observation.archive.problem == "new"
    assert list(new.observation.stores) == ["local"]
    new.stop()


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("the writer is node1", "the writer is node1"),
        ("a\r\nX-Evil: 1\0", "a X-Evil: 1?"),
        ("né" * 900, "n?" * 250),
    ],
)
def test_nobody_writes_headers_of_his_own(words: str, value: str) -> None:
    assert as_header(words) == value


@pytest.fixture
def configuration(site: Site) -> Configuration:
    return load_configuration(site.configuration)


def test_changes_are_told_with_both_values(configuration: Configuration) -> None:
    serve = configuration.serve.model_copy(update={"port": 1234, "stale_after_s": 20.0})
    new = configuration.model_copy(update={"serve": serve, "admin_account": "other"})
    assert [str(change) for change in changes(configuration, new)] == [
        "admin_account: 'dbha' -> 'other'",
        "serve.port: 9178 -> 1234; not before a restart of dbha serve",
        "serve.stale_after_s: 10.0 -> 20.0",
    ]
    used = taken_up(configuration, new)
    assert (used.serve.port, used.serve.stale_after_s, used.admin_account) == (9178, 20.0, "other")
    assert not changes(configuration, configuration)


@pytest.fixture
def serving(site: Site, configuration: Configuration, tmp_path: Path) -> Serving:
    def make(changed: Configuration) -> RealSite:
        return RealSite(changed, SecretSource(changed.secrets, os.environ), os.environ)

    return Serving(make(configuration), make, Journal(tmp_path / "journal.sqlite"), tmp_path / "lock")


def test_a_reload_takes_up_what_it_may(
    site: Site, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = site.configuration.read_text()
    site.configuration.write_text(
        text + "serve: {port: 1, backups_interval_s: 7}\nlimits: {observe_timeout_s: 1}\n"
    )
    serving.reload(lambda: load_configuration(site.configuration))
    assert "serve.backups_interval_s: 120.0 -> 7.0" in caplog.messages
    assert "serve.port: 9178 -> 1; not before a restart of dbha serve" in caplog.messages
    assert caplog.messages[-1] == "reloaded: 3 key(s) changed; the inventory was read anew"
    serving.reload(lambda: load_configuration(site.configuration))
    assert caplog.messages[-1] == "reloaded: 0 key(s) changed; the inventory was read anew"
    serving.stop()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("dbha.yml", "cluster: [", "is not YAML"),
        ("inventory.yml", "galrea: {hosts: {db1: {}}}", "did you mean `galrea`?"),
        ("secrets.yml", "other: x", "admin_password"),
    ],
)
def test_a_reload_with_a_mistake_changes_nothing(
    site: Site, serving: Serving, caplog: pytest.LogCaptureFixture, file: str, text: str, words: str
) -> None:
    (site.directory / file).write_text(text)
    before = serving._watch
    serving.reload(lambda: load_configuration(site.configuration))
    (said,) = caplog.messages
    assert "the new configuration is not used, the old one goes on" in said and words in said
    assert "hidden" not in said
    assert serving._watch is before


def test_a_port_that_is_taken_is_a_mistake(configuration: Configuration) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        policy = configuration.serve.model_copy(update={"port": taken.getsockname()[1]})
        with pytest.raises(ConfigurationError) as caught:
            listen(configuration.model_copy(update={"serve": policy}))
    assert "Address already in use" in caught.value.problems[0]


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"@dbha-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        notifier.ready("cluster lab: healthy")
        notifier.reloading()
        notifier.alive("fine")
        notifier.stopping()
        said = [systemd.recv(4096).decode() for _ in range(4)]
    assert said[0] == "READY=1\nSTATUS=cluster lab: healthy"
    assert said[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[2:] == ["WATCHDOG=1\nSTATUS=fine", "STOPPING=1"]
    assert notifier.watchdog_s == 30


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
def test_without_systemd_nobody_is_told(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready("nobody listens")
    assert notifier.watchdog_s is None


def test_looking_takes_less_time_than_what_is_seen_stays_fresh(site: Site) -> None:
    site.configuration.write_text(site.configuration.read_text() + "serve: {stale_after_s: 3}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(site.configuration)
    assert "stale_after_s must be more than" in caught.value.problems[0]
