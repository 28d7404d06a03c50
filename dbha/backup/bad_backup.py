"""What is wrong with a backup, as against what only keeps it from being verified on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.errors import FoundWrongError


class BadBackupError(Exception):
    """What is wrong with a backup, in words, and the level that noticed. Never leaves a verification.

    `manifest` tells which one it is of several that a restore needs; None: the one that was asked for.
    """

    def __init__(self, problem: str, level: Level, manifest: Manifest | None = None) -> None:
        super().__init__(problem)
        self.level = level
        self.manifest = manifest


@contextmanager
def blamed_on(manifest: Manifest) -> Iterator[None]:
    """Say of what is found wrong in the block that it is wrong with this backup."""
    try:
        yield
    except BadBackupError as error:
        raise BadBackupError(str(error), error.level, error.manifest or manifest) from error
    except FoundWrongError as error:
        raise BadBackupError(str(error), Level.HASH, manifest) from error
