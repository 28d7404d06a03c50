"""Objects as files of another host, over SFTP. A backup is a directory there, with its parts as files."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager

from dbha.backup.objects import StoredObject, StoreLostError, StoreUnreachableError
from dbha.transport import HostKeyError, SshEndpoint, SshTransport, TransportError
from dbha.transport.sftp import Sftp


class SftpObjects:
    """See Objects. Relative directories are below the account's home."""

    def __init__(self, endpoint: SshEndpoint, directory: str, where: str) -> None:
        self._sftp = Sftp(SshTransport(endpoint))
        self._directory = posixpath.normpath(directory)
        self._made: set[str] = set()
        self.where = where

    def put(self, name: str, content: bytes) -> None:
        """See Objects."""
        path = self._path(name)
        directory = posixpath.dirname(path)
        with self._translated():
            if directory not in self._made:
                self._sftp.make_directory(directory)
                self._made.add(directory)
            try:
                self._sftp.put(path, content)
            except FileNotFoundError as error:  # another process deleted the directory, empty as it was
                self._made.discard(directory)
                raise TransportError(f"{directory} is gone") from error
            except OSError as error:  # SFTP has no word for a full disk
                raise OSError(f"{error}, with {self._sftp.free_bytes(directory)} bytes free") from error

    def get(self, name: str) -> bytes:
        """See Objects."""
        with self._translated():
            return self._sftp.get(self._path(name))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See Objects."""
        with self._translated():
            found = self._sftp.files(posixpath.normpath(self._path(prefix)))
        return (StoredObject(prefix + name, size_bytes) for name, size_bytes in found)

    def delete(self, name: str) -> None:
        """See Objects."""
        with self._translated():
            self._sftp.delete(self._path(name))
            self._made.discard(posixpath.dirname(self._path(name)))

    def locks(self) -> str:
        """See Objects. SFTP has nothing of the kind."""
        return ""

    def age_s(self, name: str) -> float:
        """See Objects."""
        with self._translated():
            return self._sftp.age_s(self._path(name))

    def free_bytes(self) -> int | None:
        """See Objects."""
        with self._translated():
            return self._sftp.free_bytes(self._directory)

    def close(self) -> None:
        """See Objects."""
        self._sftp.close()

    def _path(self, name: str) -> str:
        return posixpath.join(self._directory, name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except HostKeyError as error:
            raise StoreUnreachableError(f"{self.where}: {error}", hint=error.hint) from error
        except TransportError as error:
            raise StoreLostError(f"{self.where} does not answer: {error}", hint=error.hint) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnreachableError(f"{self.where} refuses: {error.strerror or error}") from error
