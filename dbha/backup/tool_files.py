"""Read the small files that mariadb-backup writes beside the data. Their names depend on its version."""

import re

INFO_FILES = ("xtrabackup_info", "mariadb_backup_info")  # the last member of every complete stream
GALERA_FILES = ("xtrabackup_galera_info", "mariadb_backup_galera_info")
CHECKPOINT_FILES = ("xtrabackup_checkpoints", "mariadb_backup_checkpoints")
BINLOG_FILES = ("xtrabackup_binlog_info", "mariadb_backup_binlog_info")

# What the files themselves depend on; everything else of the donor's configuration does not matter here.
_LAYOUT = ("innodb_data_file_path", "innodb_page_size", "innodb_undo_tablespaces")

_POSITION = re.compile(r"\s*([0-9a-f-]{36}):(\d+)(?:\s+\S+)*\s*")


def galera_position(text: str) -> tuple[str, int]:
    """Return state UUID and seqno of a galera info: `uuid:seqno`, and newer versions add a domain id.

    Raises ValueError, fit for a message, when there is no position in it.
    """
    found = _POSITION.fullmatch(text)
    if not found:
        raise ValueError(f"the backup does not know its Galera position: {text.strip() or 'no galera info'}")
    return found[1], int(found[2])


def gtid_of(text: str) -> str:
    """Return the GTID of a binlog info (file, position, GTID); empty when the donor kept no binary log."""
    words = text.split()
    return words[2] if len(words) > 2 else ""


def key_values(text: str) -> dict[str, str]:
    """Return the `name = value` lines of a backup info."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def lsn_range(text: str) -> tuple[int, int]:
    """Return the first and the last LSN of the checkpoints file; the first of a full backup is 0.

    Raises ValueError, fit for a message, when they are not in it.
    """
    values = key_values(text)
    try:
        return int(values["from_lsn"]), int(values["to_lsn"])
    except (KeyError, ValueError):
        raise ValueError("the backup does not know its LSNs") from None


def series_of(version: str) -> str:
    """Return `10.11` of `10.11.19-MariaDB`: the part that must be equal for a backup to be prepared."""
    found = re.match(r"\d+\.\d+", version)
    return found[0] if found else ""


def layout_options(donors_options: str) -> tuple[str, ...]:
    """Return the options of a server that the files of a backup need, from its `backup-my.cnf`."""
    pairs = (line.partition("=") for line in donors_options.splitlines())
    return tuple(
        f"--{name.strip().replace('_', '-')}={value.strip()}"
        for name, found, value in pairs
        if found and name.strip() in _LAYOUT
    )
