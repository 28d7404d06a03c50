"""What is wrong with a backup, as against what only keeps it from being verified on this machine."""

from dbha.backup.levels import Level


class BadBackupError(Exception):
    """What is wrong with a backup, in words, and the level that noticed. Never leaves a verification."""

    def __init__(self, problem: str, level: Level) -> None:
        super().__init__(problem)
        self.level = level
