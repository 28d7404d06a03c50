"""The accounts of a cluster, and what they may do, as SQL: what a restore needs to bring one back that is gone.

Read by SHOW CREATE USER and SHOW GRANTS, so it is the server's own word. It has the hashes of passwords: what is
made of it goes into files for their owner only, and never into a message, a log or the journal.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dbha.backup.definitions import plain_sql_mode
from dbha.backup.encryption import NO_IDENTITIES, Identities, decrypted
from dbha.backup.manifest import AccountsFile, Manifest, Record, canonical
from dbha.backup.store import Store
from dbha.database import Session, SqlError, identified_by, identifier, literal
from dbha.errors import DbhaError
from dbha.secrets import Secret

# MariaDB's own account, and those that dbha makes for one schema sync and drops after it.
_NOBODYS = "g.User <> 'mariadb.sys' AND g.User NOT LIKE 'dbha\\_migrate\\_%'"
_PUBLIC = "PUBLIC"  # every account has it; it is neither created nor dropped

_NAME = r"`(?:[^`]|``)+`"
_GRANTEE = rf"{_NAME}(?:@`(?:[^`]|``)*`)?"
_GLOBAL = re.compile(rf"^(GRANT .+ ON \*\.\* TO {_GRANTEE})(.*)$", re.DOTALL)
_ON_DATABASE = re.compile(
    rf"^GRANT .+ ON (?:FUNCTION |PROCEDURE |PACKAGE (?:BODY )?)?({_NAME})\.(\*|{_NAME}) TO "
)
_ROLE = re.compile(rf"^(?:GRANT|SET DEFAULT ROLE) ({_NAME}) (?:TO|FOR) ")
_COLUMNS = re.compile(rf"\(({_NAME}(?:, {_NAME})*)\)")
_QUOTED = re.compile(r"'(?:[^'\\]|''|\\.)*'")
_CREATE_USER = "CREATE USER "


class RecordedAccount(Record):
    """One account, or role. `create` makes it where it is missing; `grants` are statements that may be repeated."""

    user: str
    host: str = ""  # a role has none
    is_role: bool = False
    locked: bool = False
    create: str = ""  # with the hash of its password; empty for PUBLIC
    grants: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The account in words, as `dbha backup show` lists it."""
        return f"role {self.user}" if self.is_role else f"{self.user}@{self.host}"


class Accounts(Record):
    """All accounts of a cluster."""

    schema_version: Literal[1] = 1
    accounts: tuple[RecordedAccount, ...]


@dataclass(frozen=True, slots=True)
class BroughtBack:
    """What was missing, by the names of accounts, and where the password of each that was made comes from."""

    by_configuration: tuple[str, ...] = ()
    by_backup: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = {
            "made with the passwords of dbha's configuration": self.by_configuration,
            "made as in the backup": self.by_backup,
            "given rights again": self.granted,
        }
        return "; ".join(f"{', '.join(names)}: {what}" for what, names in parts.items() if names)


def read_accounts(session: Session) -> Accounts:
    """Return all accounts as this node has them, in the order of their names."""
    with plain_sql_mode(session):
        rows = session.rows(
            "SELECT g.User AS user, g.Host AS host,"
            " COALESCE(JSON_VALUE(g.Priv, '$.is_role'), '') IN ('true', '1') AS is_role,"
            " COALESCE(JSON_VALUE(g.Priv, '$.account_locked'), '') IN ('true', '1') AS locked"
            f" FROM mysql.global_priv g WHERE {_NOBODYS} ORDER BY g.User, g.Host"
        )
        found = [
            _read(session, row["user"], row["host"], is_role=bool(row["is_role"]), locked=bool(row["locked"]))
            for row in rows
        ]
    return Accounts(accounts=tuple(found))


def packed(accounts: Accounts) -> bytes:
    """Return the accounts as they lie in a store."""
    return canonical(accounts.model_dump(mode="json"))


def unpacked(content: bytes) -> Accounts:
    """Return what `packed` wrote, once its sha256 was compared."""
    return Accounts.model_validate_json(content)


def stored_accounts(
    store: Store, manifest: Manifest, identities: Identities = NO_IDENTITIES
) -> Accounts | None:
    """Return the accounts of a backup, None for one of dbha 0.1.

    Raises FoundWrongError for damaged ones, KeyMissingError when none of the `identities` opens them.
    """
    content = store.accounts_file(manifest.id)
    return None if content is None else unpacked(decrypted(content, manifest, identities))


def accounts_file(before: Accounts, after: Accounts, file: str, sha256: str) -> AccountsFile:
    """Return what the manifest says of the accounts `after` a copy; what they were `before` tells what is certain."""
    known = {account.name: account for account in before.accounts}
    names = {account.name for account in after.accounts}
    changed = {account.name for account in after.accounts if known.get(account.name) != account}
    return AccountsFile(
        file=file,
        sha256=sha256,
        names=tuple(sorted(names)),
        unsettled=tuple(sorted(changed | known.keys() - names)),
    )


def differences(recorded: Accounts, found: Accounts, unsettled: Collection[str]) -> list[str]:
    """Return in words how the accounts of a restored server are not those that were recorded."""
    expected = {each.name: each for each in recorded.accounts if each.name not in unsettled}
    there = {each.name: each for each in found.accounts if each.name not in unsettled}
    return [
        *(f"account {name} is missing" for name in sorted(expected.keys() - there.keys())),
        *(f"account {name} was not there" for name in sorted(there.keys() - expected.keys())),
        *(
            f"account {name} is another than it was"
            for name in sorted(expected.keys() & there.keys())
            if expected[name] != there[name]
        ),
    ]


def belonging_to(accounts: Accounts, databases: Collection[str]) -> tuple[RecordedAccount, ...]:
    """Return who was granted something on the databases, with no other grants: roles first, so that they exist.

    Who has it by a role counts, too. Global rights are nobody's part of a service.
    """
    roles = _roles_on(accounts, databases)
    found = []
    for account in accounts.accounts:
        grants = tuple(
            grant for grant in account.grants if _is_on(grant, databases) or _role_of(grant) in roles
        )
        if grants:
            found.append(account.model_copy(update={"grants": grants}))
    return tuple(sorted(found, key=lambda each: (not each.is_role, each.name)))


def bring_back(
    session: Session, wanted: Sequence[RecordedAccount], passwords: Mapping[str, Secret]
) -> BroughtBack:
    """Make what is missing of the accounts and their grants; what is there already stays as it is.

    `passwords` are those of dbha's configuration, by the name of the account at any host: they win over those
    of the backup. Can be repeated after it was cut off anywhere.
    """
    present = {each.name: each for each in read_accounts(session).accounts}
    by_configuration: list[str] = []
    by_backup: list[str] = []
    granted: list[str] = []
    for account in wanted:
        if account.name in present or not account.create:
            continue
        password = passwords.get(account.user) if account.host == "%" else None
        _execute(session, account, _create(account, password))
        (by_configuration if password else by_backup).append(account.name)
    for account in wanted:
        there = present[account.name].grants if account.name in present else ()
        missing = [grant for grant in account.grants if grant not in there]
        for grant in missing:
            _execute(session, account, grant)
        if missing and account.name in present:
            granted.append(account.name)
    return BroughtBack(tuple(by_configuration), tuple(by_backup), tuple(granted))


def without_credentials(grant: str) -> str:
    """Return a line of SHOW GRANTS so that it changes no password: the global one repeats what CREATE USER says."""
    found = _GLOBAL.match(grant)
    if not found:
        return grant
    may_grant = " WITH GRANT OPTION" in _QUOTED.sub("", found[2])
    return f"{found[1]} WITH GRANT OPTION" if may_grant else found[1]


def in_order(grant: str) -> str:
    """Return a grant with the columns it names in the order of their names."""
    return _COLUMNS.sub(lambda found: f"({', '.join(sorted(re.findall(_NAME, found[1])))})", grant)


def _read(session: Session, user: str, host: str, *, is_role: bool, locked: bool) -> RecordedAccount:
    who = literal(user) if is_role else f"{literal(user)}@{literal(host)}"
    if is_role:
        create = "" if user == _PUBLIC else f"CREATE ROLE IF NOT EXISTS {identifier(user)}"
    else:
        said = str(next(iter(session.rows(f"SHOW CREATE USER {who}")[0].values())))
        create = f"{_CREATE_USER}IF NOT EXISTS {said.removeprefix(_CREATE_USER)}"
    lines = session.column(f"SHOW GRANTS FOR {_PUBLIC if user == _PUBLIC and is_role else who}")
    # In an order of our own: that of the server is another after each start. GRANT comes before SET DEFAULT ROLE.
    own = [
        in_order(without_credentials(str(line))) for line in lines if not is_role or _is_for(str(line), user)
    ]
    return RecordedAccount(
        user=user, host=host, is_role=is_role, locked=locked, create=create, grants=tuple(sorted(own))
    )


def _is_for(grant: str, role: str) -> bool:
    """Tell whether a line of SHOW GRANTS FOR a role is its own: those of the roles it was granted come with it."""
    name = identifier(role)
    return f" TO {name}" in grant or f" FOR {name}" in grant


def _create(account: RecordedAccount, password: Secret | None) -> str:
    if password is None:
        return account.create
    lock = " ACCOUNT LOCK" if account.locked else ""
    return (
        f"CREATE USER IF NOT EXISTS {literal(account.user)}@{literal(account.host)}"
        f" {identified_by(password)}{lock}"
    )


def _execute(session: Session, account: RecordedAccount, sql: str) -> None:
    """Run a statement; what the server says of one that fails may repeat it, and so the hash, and is left out."""
    try:
        session.execute(sql)
    except SqlError as error:
        raise DbhaError(
            f"{session.node} refused to bring account {account.name} back (error {error.code})"
        ) from None


def _roles_on(accounts: Accounts, databases: Collection[str]) -> set[str]:
    """Return the roles that carry rights on the databases, also through other roles."""
    roles = {
        account.user
        for account in accounts.accounts
        if account.is_role and any(_is_on(grant, databases) for grant in account.grants)
    }
    while (
        more := {
            account.user
            for account in accounts.accounts
            if account.is_role and any(_role_of(grant) in roles for grant in account.grants)
        }
        - roles
    ):
        roles |= more
    return roles


def _role_of(grant: str) -> str | None:
    found = _ROLE.match(grant)
    return _plain(found[1]) if found else None


def _is_on(grant: str, databases: Iterable[str]) -> bool:
    found = _ON_DATABASE.match(grant)
    if not found:
        return False
    name = _plain(found[1])
    if found[2] != "*":
        return name in databases
    pattern = _like(name)
    return any(pattern.fullmatch(database) for database in databases)


def _plain(quoted: str) -> str:
    return quoted[1:-1].replace("``", "`")


def _like(pattern: str) -> re.Pattern[str]:
    """Return the pattern of a grant on databases: `_` and `%` are wildcards unless a backslash is before them."""
    words = {"_": ".", "%": ".*"}
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    return re.compile(
        "".join(words.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL | re.IGNORECASE
    )
