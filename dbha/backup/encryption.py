"""Encrypt a backup for age recipients, and open it with age identities. No secret is ever in an argument.

age (C2SP age-encryption.org/v1) because it is one small specification with several implementations and a Debian
package, takes several recipients, needs no agent and no key ring, and authenticates a stream piece by piece.
"""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import IO, BinaryIO, Protocol

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.children import start
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.config.model import RECIPIENT, EncryptionPolicy
from dbha.errors import (
    ConfigurationError,
    DbhaError,
    FoundWrongError,
    KeyMissingError,
    UnreachableError,
    UnsafeError,
)
from dbha.secrets import Secret

BLOCK_BYTES = 1 << 20
_HOW_TO = "docs/how-to/encrypt-backups.md"
# What age says of input that is not what was encrypted. Whatever else it says is about this machine.
# An identity was matched with the recipients before: when age finds none that fits, the header is not what it was.
_SPOILT = (
    "bad header MAC",
    "failed to decrypt and authenticate payload",
    "failed to read header",
    "no identity matched",
)


def encrypt_argv(recipients: Sequence[str]) -> tuple[str, ...]:
    """Return the command that encrypts stdin to stdout for all of the recipients; nothing where there are none."""
    if not recipients:
        return ()
    return ("age", "--encrypt", *(f"--recipient={recipient}" for recipient in recipients))


def decrypt_argv(identities: int) -> tuple[str, ...]:
    """Return the command that decrypts stdin to stdout with the identities in an open file."""
    return ("age", "--decrypt", f"--identity=/dev/fd/{identities}")


def recipients_of(policy: EncryptionPolicy | None) -> tuple[str, ...]:
    """Return for whom new backups are encrypted; empty when they are not.

    Raises ConfigurationError for a file that cannot be read, or a recipient that age does not take.
    """
    if policy is None:
        return ()
    recipients = tuple(dict.fromkeys((*policy.recipients, *_from_file(policy))))
    done = _run(encrypt_argv(recipients), b"")
    if done.returncode != 0:
        raise ConfigurationError(
            "backup.encryption", [f"age does not take it: {_words(done.stderr)}"], hint=_HOW_TO
        )
    return recipients


def _from_file(policy: EncryptionPolicy) -> tuple[str, ...]:
    path = policy.recipients_file
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error}"]) from error
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if (
        problems
        := [  # by number: whoever takes the wrong file for it must not find a secret key on the screen
            f"line {number} is not an age recipient"
            for number, line in enumerate(lines, 1)
            if line in found and not re.match(RECIPIENT, line)
        ]
    ):
        raise ConfigurationError(str(path), problems, hint=_HOW_TO)
    if not found and not policy.recipients:
        raise ConfigurationError(str(path), ["names no recipient: nobody could open a backup"], hint=_HOW_TO)
    return found


def encrypted(content: bytes, recipients: Sequence[str]) -> bytes:
    """Return a small file of a backup as it is stored: unchanged where there are no recipients."""
    if not recipients:
        return content
    done = _run(encrypt_argv(recipients), content)
    if done.returncode != 0:
        raise UnsafeError(f"age did not encrypt: {_words(done.stderr)}")
    return done.stdout


class Identities:
    """The age identities that this controller holds, perhaps none. They go to a tool in a file without a name."""

    def __init__(self, secret: Secret | None = None) -> None:
        self._secret = secret

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        """The recipients that they open for. Raises ConfigurationError when they are not identities of age."""
        if self._secret is None:
            return ()
        with self.opened() as identities:
            done = _run(("age-keygen", "-y", f"/dev/fd/{identities}"), b"", identities)
        if done.returncode != 0:  # its words could be of a secret: only where it stumbled is passed on
            where = re.search(rb"at line \d+", done.stderr)
            place = f" ({where[0].decode()})" if where else ""
            raise ConfigurationError(
                "the secrets", [f"backup_identity: age-keygen does not understand it{place}"], hint=_HOW_TO
            )
        return tuple(done.stdout.decode().split())

    def open(self, recipients: Sequence[str]) -> bool:
        """Return whether they open what was encrypted for these; what was encrypted for nobody is in plain."""
        return not recipients or not set(recipients).isdisjoint(self.recipients)

    def require(self, manifest: Manifest) -> None:
        """Raise KeyMissingError, naming who can open the backup, unless they open it."""
        self.require_for(manifest.recipients, f"backup {manifest.id}")

    def require_for(self, recipients: Sequence[str], what: str) -> None:
        """Raise KeyMissingError, naming `what` and who can open it, unless they open it."""
        if not self.open(recipients):
            raise _missing(what, recipients, self.recipients)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield the descriptor of a file with the identities, which is in memory and has no name."""
        descriptor = os.memfd_create("identities")
        try:
            content = memoryview(self._secret.reveal().encode() + b"\n" if self._secret else b"")
            while content:
                content = content[os.write(descriptor, content) :]
            yield descriptor
        finally:
            os.close(descriptor)


NO_IDENTITIES = Identities()


def decrypted(content: bytes, manifest: Manifest, identities: Identities) -> bytes:
    """Return what a small file of a backup holds, once its sha256 was compared.

    Raises KeyMissingError when it cannot be opened here, and FoundWrongError when it was spoilt as it was written.
    """
    if manifest.encryption is None:
        return content
    identities.require(manifest)
    with identities.opened() as opened:
        done = _run(decrypt_argv(opened), content, opened)
    if problem := _problem(manifest, done.returncode, _words(done.stderr)):
        raise FoundWrongError(str(problem)) if isinstance(problem, BadBackupError) else problem
    return done.stdout


class Readable(Protocol):
    """What can be read from, block by block."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; empty at the end."""


class PlainStream:
    """The stored stream of a backup that is not encrypted; every block that is read is shown to `on_block`."""

    def __init__(self, stream: BinaryIO, on_block: Callable[[bytes], None]) -> None:
        self._stream, self._on_block = stream, on_block

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        block = self._stream.read(size)
        if block:
            self._on_block(block)
        return block

    def require_opened(self) -> None:
        """Nothing had to be opened."""


class OpenedStream:
    """The stored stream of an encrypted backup, in plain. `on_block` is shown every block as it is stored.

    Also those after age gave up, so that a hash is of all of them.
    """

    def __init__(
        self, stream: BinaryIO, manifest: Manifest, identities: Identities, on_block: Callable[[bytes], None]
    ) -> None:
        self._stored, self._manifest = PlainStream(stream, on_block), manifest
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        with identities.opened() as opened:
            self._age = start(
                decrypt_argv(opened), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words,
                pass_fds=(opened,), bufsize=0,
            )  # fmt: skip
        self._said = b""
        self._broke_off: BaseException | None = None
        self._is_ending = False
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes in plain. Raises at the end what reading the store raised."""
        block: bytes = self._output.read(size)
        if not block:
            self._age.wait()
            self._feeder.join()
            if self._broke_off is not None:
                raise self._broke_off
        return block

    def require_opened(self) -> None:
        """Raise unless all of it could be opened: BadBackupError when what was stored is at fault."""
        problem = _problem(self._manifest, self._age.returncode, _words(self._said))
        if problem is not None:
            raise problem

    def close(self) -> None:
        """End age, wherever it is."""
        self._is_ending = True
        self._age.kill()
        self._age.wait()
        self._feeder.join()
        self._output.close()
        self._words.seek(0)
        self._said = self._words.read()
        self._words.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._age.stdout is not None
        return self._age.stdout

    def _feed(self) -> None:
        assert self._age.stdin is not None
        is_reading = True
        try:
            while (block := self._stored.read(BLOCK_BYTES)) and not self._is_ending:
                is_reading = is_reading and write_all(self._age.stdin, block)
        except Exception as error:  # noqa: BLE001  # raised again by whoever reads
            self._broke_off = error
        finally:
            with suppress(BrokenPipeError):
                self._age.stdin.close()


@contextmanager
def opening(
    stream: BinaryIO, manifest: Manifest, identities: Identities, on_block: Callable[[bytes], None]
) -> Iterator[PlainStream | OpenedStream]:
    """Yield the stored stream without its encryption; `on_block` is shown the blocks as they are stored.

    Raises KeyMissingError before anything is read when none of the identities opens it. `require_opened` of what is
    yielded has to be asked afterwards, once the hash was compared: what age says of changed bytes is not the cause.
    """
    if manifest.encryption is None:
        yield PlainStream(stream, on_block)
        return
    identities.require(manifest)
    opened = OpenedStream(stream, manifest, identities, on_block)
    try:
        yield opened
    finally:
        opened.close()


def _run(argv: Sequence[str], content: bytes, *descriptors: int) -> "subprocess.CompletedProcess[bytes]":
    """Run a tool of age on a small content. Raises UnreachableError when it is not installed."""
    try:
        return subprocess.run(argv, input=content, pass_fds=descriptors, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UnreachableError(
            f"{argv[0]} is not installed on this machine", hint="apt-get install age"
        ) from error


def write_all(target: IO[bytes], block: bytes) -> bool:
    """Write all of a block; return False when nobody reads any more."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[target.write(rest) :]
    except BrokenPipeError:
        return False
    return True


def _problem(manifest: Manifest, status: int, words: str) -> DbhaError | BadBackupError | None:
    """Return what it means that age ended so: the backup's fault only when its bytes are not what age wrote."""
    if status == 0:
        return None
    if any(sign in words for sign in _SPOILT):
        return BadBackupError(f"it cannot be decrypted: {words}", Level.PREPARE)
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}: {words}"
    return UnsafeError(f"backup {manifest.id} could not be decrypted: age {ended}")


def _missing(what: str, recipients: Sequence[str], held: Sequence[str]) -> KeyMissingError:
    here = f"the identities here are those of {', '.join(held)}" if held else "there is no identity here"
    return KeyMissingError(
        f"{what} is encrypted for {', '.join(recipients)}; {here}",
        hint="set secrets.identity_file, or the secret backup_identity, to the identity of one of these"
        f" recipients     {_HOW_TO}",
    )


def _words(stderr: bytes) -> str:
    """Return what age said, without where it wants to be told about its own mistakes."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if "age/report" not in line]
    return "; ".join(line.removeprefix("age: error: ").strip() for line in lines)[-300:]
