"""SQL to one node at a time. The only module that imports PyMySQL; its errors are translated here, once."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pymysql
import pymysql.connections
from pymysql.constants import ER
from pymysql.cursors import DictCursor

from dbha.errors import DbhaError, UnreachableError
from dbha.inventory import Node
from dbha.secrets import Secret

Row = dict[str, Any]
Parameters = Sequence[object] | Mapping[str, object] | None

_GREETING_TIMEOUT_S = 30.0
_SAFE_IDENTIFIER = re.compile(r"[^\x00`]{1,64}")


class NodeUnreachableError(UnreachableError):
    """The server did not answer: refused, timed out, or the connection was lost."""


class AccessDeniedError(UnreachableError):
    """The server answered, and refused the account or its password."""


class SqlError(DbhaError):
    """The server refused a statement; `code` is the server's own error number."""

    exit_code = 5

    def __init__(self, node: Node, code: int, message: str) -> None:
        super().__init__(f"{node}: error {code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Account:
    """A name and password to connect with."""

    user: str
    password: Secret


if TYPE_CHECKING:
    _Base = pymysql.connections.Connection[DictCursor]
else:  # generic for the type checker only
    _Base = pymysql.connections.Connection


class _Connection(_Base):
    """A connection that prefers TLS, as PyMySQL's own, and does not read the system's certificates for it each time.

    Without a certificate authority named none is checked, and reading all of them is nine tenths of a connection's
    work: an observation every second would take a tenth of a processor for it.
    """

    _preferred: ClassVar[object] = None

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        if sslp:
            return super()._create_ssl_ctx(sslp)  # type: ignore[misc]
        if _Connection._preferred is None:
            _Connection._preferred = super()._create_ssl_ctx(sslp)  # type: ignore[misc]
        return _Connection._preferred


class Session:
    """One connection to one node, in autocommit mode, answering rows as dictionaries."""

    def __init__(
        self, node: Node, connection: "pymysql.connections.Connection[DictCursor]", signature: str = ""
    ) -> None:
        self.node = node
        self._connection = connection
        self._signature = signature

    def rows(self, sql: str, parameters: Parameters = None) -> list[Row]:
        """Return all rows of a query. Raises SqlError; NodeUnreachableError when the connection is lost."""
        with _translated(self.node), self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def value(self, sql: str, parameters: Parameters = None) -> Any:
        """Return the first column of the first row, or None when there is no row."""
        found = self.rows(sql, parameters)
        return next(iter(found[0].values())) if found else None

    def column(self, sql: str, parameters: Parameters = None) -> list[Any]:
        """Return the first column of every row."""
        return [next(iter(row.values())) for row in self.rows(sql, parameters)]

    def execute(self, sql: str, parameters: Parameters = None) -> int:
        """Run a statement and return the number of rows it affected. The server sees it with the signature."""
        with _translated(self.node), self._connection.cursor() as cursor:
            return cursor.execute(f"{self._signature}{sql}", parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block did, or roll it back when it raises."""
        self.execute("START TRANSACTION")
        try:
            yield
        except BaseException:  # whatever ends the block, also a signal
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")


@contextmanager
def connect(
    node: Node,
    account: Account,
    *,
    connect_timeout_s: float = 3,
    read_timeout_s: float | None = None,
    signature: str = "",
    unix_socket: str | None = None,
    tls_ca_file: Path | None = None,
) -> Iterator[Session]:
    """Yield a session on `node`; `read_timeout_s` bounds each answer, None waits as long as it takes.

    With `unix_socket` that is the way, and the node's address does not matter.

    With `tls_ca_file` nothing is said before the server showed a certificate of that CA with its address in it.

    `signature` is an SQL comment that each statement begins with, so that it can be told whose it is.

    Raises NodeUnreachableError or AccessDeniedError. Every statement runs with the ANSI-free default
    `sql_mode` of the server and in UTC.
    """
    with _translated(node):
        connection = _Connection(
            host=node.address,
            port=node.port,
            unix_socket=unix_socket,
            user=account.user,
            password=account.password.reveal(),
            connect_timeout=max(1, round(connect_timeout_s)),
            # A server that is frozen accepts connections and never says a word, so the greeting is bounded too.
            read_timeout=read_timeout_s or _GREETING_TIMEOUT_S,
            charset="utf8mb4",
            autocommit=True,
            cursorclass=DictCursor,
            ssl=None if tls_ca_file is None else {"ca": str(tls_ca_file), "check_hostname": True},
            init_command="SET SESSION time_zone = '+00:00'",
        )
    # PyMySQL has no public way to lift the bound once the greeting is over.
    connection._read_timeout = read_timeout_s  # type: ignore[attr-defined]
    try:
        yield Session(node, connection, signature)
    finally:
        with contextlib.suppress(pymysql.err.MySQLError, OSError):  # the server ends its side by itself
            connection.close()


def identifier(name: str) -> str:
    """Return `name` quoted as an SQL identifier. Raises ValueError for what no identifier can be."""
    if not _SAFE_IDENTIFIER.fullmatch(name):
        raise ValueError(f"not an SQL identifier: {name!r}")
    return f"`{name}`"


def literal(text: str) -> str:
    """Return `text` as an SQL string literal, for statements that take no parameters (account names)."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def identified_by(password: Secret) -> str:
    """Return the clause that gives an account a password, as its hash.

    Statements about accounts are replicated as they are written: the password itself would be in the binary logs and
    the write-set cache of every node.
    """
    twice = hashlib.sha1(hashlib.sha1(password.reveal().encode()).digest()).hexdigest()  # noqa: S324 - MariaDB's own
    return f"IDENTIFIED BY PASSWORD '*{twice.upper()}'"


@contextmanager
def _translated(node: Node) -> Iterator[None]:
    try:
        yield
    except pymysql.err.OperationalError as error:
        code = error.args[0] if error.args else 0
        if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, 4151):  # 4151: the account is locked
            raise AccessDeniedError(
                f"{node} ({node.address}:{node.port}) refused the account: {error.args[-1]}"
            ) from error
        if code == 0 or 2000 <= code < 3000:  # the client's own errors: the server was not reached
            raise NodeUnreachableError(
                f"{node} ({node.address}:{node.port}) does not answer: {error.args[-1]}"
            ) from error
        raise SqlError(node, code, str(error.args[-1])) from error
    except pymysql.err.InterfaceError as error:
        raise NodeUnreachableError(f"{node}: the connection is gone") from error
    except pymysql.err.MySQLError as error:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        raise SqlError(node, code, str(error.args[-1] if error.args else error)) from error
    except OSError as error:
        raise NodeUnreachableError(f"{node} ({node.address}:{node.port}) does not answer: {error}") from error
