"""A store of objects in memory, whose requests can get lost and whose room can end."""

from collections.abc import Iterable

from dbha.backup.objects import StoredObject, StoreLostError, StoreUnreachableError


class Memory:
    """Objects in memory. `lost` of the next requests are not answered, and only `puts_left` more puts work."""

    where = "store `memory`"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.ages_s: dict[str, float] = {}
        self.lost = 0
        self.puts: list[str] = []
        self.puts_left = 1 << 30

    def put(self, name: str, content: bytes) -> None:
        self._answer()
        if self.puts_left == 0:
            raise StoreUnreachableError("no room")
        self.puts_left -= 1
        self.puts.append(name)
        self.content[name] = content

    def get(self, name: str) -> bytes:
        self._answer()
        if name not in self.content:
            raise FileNotFoundError(name)
        return self.content[name]

    def locks(self) -> str:
        raise AssertionError("nobody asks")

    def list(self, prefix: str) -> Iterable[StoredObject]:
        self._answer()
        return [
            StoredObject(name, len(found)) for name, found in self.content.items() if name.startswith(prefix)
        ]

    def delete(self, name: str) -> None:
        self._answer()
        self.content.pop(name, None)

    def age_s(self, name: str) -> float:
        self.get(name)
        return self.ages_s.get(name, 0.0)

    def free_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.lost:
            self.lost -= 1
            raise StoreLostError("store `memory` does not answer")
