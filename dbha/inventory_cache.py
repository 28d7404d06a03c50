"""Remember the nodes of an inventory that did not change: asking Ansible takes most of a second each time.

Only the nodes are kept, never other variables, which may hold secrets. An inventory that is a program or a plugin
can say something new each time, so it is always asked.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from dbha.inventory import Node, SshSettings, load_inventory

_FORMAT = b"2"  # of the cache: what is known of a node
_VARIABLE_DIRECTORIES = ("group_vars", "host_vars")


def load_inventory_cached(path: Path, cache: Path) -> tuple[Node, ...]:
    """Return the nodes as `load_inventory` does, from `cache` while no file of the inventory has changed."""
    fingerprint = fingerprint_of(path)
    if fingerprint is not None and (known := _read(cache, fingerprint)) is not None:
        return known
    nodes = load_inventory(path)
    if fingerprint is not None:
        _write(cache, fingerprint, nodes)
    return nodes


def fingerprint_of(path: Path) -> str | None:
    """Return what changes whenever a file of the inventory does; None for one that must be asked each time."""
    digest = hashlib.sha256(_FORMAT + str(path.resolve()).encode())
    for file in sorted(_files(path)):
        content = file.read_bytes()
        if os.access(file, os.X_OK) or content.lstrip().startswith(b"plugin:") or b"\nplugin:" in content:
            return None
        digest.update(str(file).encode() + b"\0" + content)
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    base = path if path.is_dir() else path.parent
    if path.is_file():
        yield path
        for name in _VARIABLE_DIRECTORIES:
            yield from (file for file in (base / name).rglob("*") if file.is_file())
    else:
        yield from (file for file in base.rglob("*") if file.is_file())


def _read(cache: Path, fingerprint: str) -> tuple[Node, ...] | None:
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
        if stored["fingerprint"] != fingerprint:
            return None
        return tuple(_node(each) for each in stored["nodes"])
    except (OSError, ValueError, KeyError, TypeError):  # whatever it is, it is not a cache of this inventory
        return None


def _node(stored: dict[str, object]) -> Node:
    ssh = stored.pop("ssh")
    if isinstance(ssh, dict):
        for name in ("private_key_file", "known_hosts_file"):
            ssh[name] = Path(ssh[name]) if ssh[name] else None
        return Node(**stored, ssh=SshSettings(**ssh))  # type: ignore[arg-type]
    return Node(**stored)  # type: ignore[arg-type]


def _write(cache: Path, fingerprint: str, nodes: tuple[Node, ...]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    content = {"fingerprint": fingerprint, "nodes": [asdict(node) for node in nodes]}
    partial.write_text(json.dumps(content, default=str), encoding="utf-8")
    partial.replace(cache)
