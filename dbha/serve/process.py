"""`dbha serve` as a process: its socket, its signals, and what it tells systemd."""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Mapping

from dbha.config import Configuration
from dbha.errors import ConfigurationError
from dbha.serve.notify import Notifier
from dbha.serve.serving import Serving
from dbha.serve.web import Web

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0


def listen(configuration: Configuration) -> socket.socket:
    """Return an open socket. Raises ConfigurationError for an address that cannot be had."""
    address, port = configuration.serve.address, configuration.serve.port
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            "the configuration", [f"serve: {address}:{port} cannot be listened on: {error.strerror or error}"]
        ) from error


def serve(
    serving: Serving,
    load: Callable[[], Configuration],
    listener: socket.socket,
    environment: Mapping[str, str],
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads."""
    _allow_many_files()
    serving.start()
    try:
        asyncio.run(_serve(serving, load, listener, Notifier(environment)))
    finally:
        serving.stop()


async def _serve(
    serving: Serving, load: Callable[[], Configuration], listener: socket.socket, notifier: Notifier
) -> None:
    web = Web(serving.answers(), serving.metrics)
    loop = asyncio.get_running_loop()
    reload_wanted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, web.stop)
    loop.add_signal_handler(signal.SIGHUP, reload_wanted.set)
    tasks = [
        asyncio.create_task(_reload(serving, load, reload_wanted, notifier)),
        asyncio.create_task(_beat(serving, notifier)),
    ]
    try:
        await web.run(listener)
    finally:
        notifier.stopping()
        for task in tasks:
            task.cancel()


async def _reload(
    serving: Serving, load: Callable[[], Configuration], wanted: asyncio.Event, notifier: Notifier
) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        notifier.reloading()
        try:
            await asyncio.to_thread(serving.reload, load)  # reading an inventory takes most of a second
        except Exception:  # a bug in reading it must not end what is served, nor the next reload
            log.exception("the new configuration is not used, the old one goes on")
        notifier.ready(serving.in_words())


async def _beat(serving: Serving, notifier: Notifier) -> None:
    """Tell log and systemd how the cluster is, as it changes, and the watchdog that nothing hangs."""
    before: tuple[str, str | None] = ("", None)
    while True:
        key = serving.key
        if key != before:
            if not before[0]:
                notifier.ready(serving.in_words())
            log.log(
                logging.INFO if key[0] == "healthy" else logging.WARNING,
                "%s, writer %s",
                serving.in_words(),
                key[1],
            )
            before = key
        if before[0] and not serving.hangs:
            notifier.alive(serving.in_words())
        await asyncio.sleep(
            min(_HEARTBEAT_S, notifier.watchdog_s / 3) if notifier.watchdog_s else _HEARTBEAT_S
        )


def _allow_many_files() -> None:
    """Take as many open files as this process may have: each idle client costs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
