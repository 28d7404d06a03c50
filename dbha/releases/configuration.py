"""The configuration that a native command reads from its standard input, and hiding its password again."""

from dataclasses import dataclass
from urllib.parse import quote, urlencode

from dbha.secrets import Secret
from dbha.services import Connection, NativeCommand

# Everything goes to stderr and nothing to files. A server that does not answer is given up soon: oslo.db would
# ask ten times, ten seconds apart.
_LOGGING = (
    ("use_stderr", "true"),
    ("use_syslog", "false"),
    ("use_journal", "false"),
    ("logging_default_format_string", "%(levelname)s %(name)s: %(message)s"),
    ("logging_context_format_string", "%(levelname)s %(name)s: %(message)s"),
    ("logging_exception_prefix", ""),  # or no line of a traceback could be told from another
)
_RETRIES = (("max_retries", "1"), ("retry_interval", "1"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node's address and the account to use there; a sync talks to one node only and never through a proxy.

    (Behind a proxy with several writers a migration may not see what the one before it did.)
    """

    address: str
    port: int
    account: str
    password: Secret
    options: tuple[tuple[str, str], ...] = (("charset", "utf8"),)  # PyMySQL's, as text


@dataclass(frozen=True, slots=True)
class ToolConfiguration:
    """The text for a command's standard input. It holds a password: only `text.reveal()` shows it."""

    text: Secret
    hidden: tuple[Secret, ...]

    def redact(self, line: str) -> str:
        """Return the line with the password, however it is written, replaced by `***`."""
        for secret in self.hidden:
            line = line.replace(secret.reveal(), "***")
        return line


def render_config(command: NativeCommand, endpoint: Endpoint) -> ToolConfiguration:
    """Return the configuration with which the command reaches each of its databases at the endpoint."""
    sections: dict[str, list[tuple[str, str]]] = {"DEFAULT": list(_LOGGING)}
    for section, option, value in command.options:
        sections.setdefault(section, []).append((option, value))
    for connection in command.connections:
        sections[connection.section] = [*_connection_options(connection, endpoint), *_RETRIES]
    sections["oslo_concurrency"] = [("disable_process_locking", "true")]
    text = "\n".join(_section(name, options) for name, options in sections.items())
    return ToolConfiguration(Secret(text), _spellings(endpoint.password))


def _connection_options(connection: Connection, endpoint: Endpoint) -> list[tuple[str, str]]:
    """Return the options that name the database, percent-encoded once: what reads them interpolates `$` only."""
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    place = f"{host}:{endpoint.port}/{_encoded(connection.database)}?{urlencode(endpoint.options)}"
    account, password = _encoded(endpoint.account), _encoded(endpoint.password.reveal())
    if connection.password_apart:
        return [
            ("connection", f"mysql+pymysql://{account}@{place}"),
            ("connection_parameters", f"password={password}"),
        ]
    return [("connection", f"mysql+pymysql://{account}:{password}@{place}")]


def _encoded(text: str) -> str:
    return quote(text, safe="")


def _section(name: str, options: list[tuple[str, str]]) -> str:
    return "\n".join((f"[{name}]", *(f"{option} = {value}" for option, value in options), ""))


def _spellings(password: Secret) -> tuple[Secret, ...]:
    """Return the ways a password can turn up in a message, the longest first."""
    plain = password.reveal()
    quoted = _encoded(plain)
    spellings = {plain, repr(plain)[1:-1], quoted, quoted.replace("%", "%%")} - {""}
    return tuple(Secret(spelling) for spelling in sorted(spellings, key=len, reverse=True))
