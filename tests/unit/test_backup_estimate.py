"""How much room is asked for, and what is said when it is not there."""

import pytest

from dbha.backup.estimate import Room, check_room, in_mib, node_needs, staging_needs, store_needs
from dbha.errors import UnsafeError

MIB = 1 << 20


def test_needs_grow_with_the_data() -> None:
    assert store_needs(1000 * MIB, None) == 1000 * 0.6 * 1.2 * MIB + 64 * MIB
    assert store_needs(1000 * MIB, 0.1) == 1000 * 0.1 * 1.2 * MIB + 64 * MIB
    assert staging_needs(1000 * MIB) == 1712 * MIB
    assert node_needs(1000 * MIB) == 1264 * MIB


@pytest.mark.parametrize(
    ("rooms", "words"),
    [
        pytest.param([], "", id="nothing is asked for"),
        pytest.param([Room("the store", "a", 5 * MIB, 5 * MIB)], "", id="just enough"),
        pytest.param(
            [
                Room("the store", "a", 6 * MIB, 5 * MIB),
                Room("db1", "b", 3 * MIB, MIB),
                Room("db2", "c", 1, 2),
            ],
            "the store: 6 MiB needed, 5 MiB free; db1: 3 MiB needed, 1 MiB free",
            id="all places that are short",
        ),
        pytest.param(
            [Room("the store", "a", 3 * MIB, 5 * MIB), Room("staging", "a", 3 * MIB, 5 * MIB)],
            "the store and staging: 6 MiB needed, 5 MiB free",
            id="two places on one file system share its room",
        ),
    ],
)
def test_check(rooms: list[Room], words: str) -> None:
    if not words:
        check_room(rooms)
        return
    with pytest.raises(UnsafeError) as refused:
        check_room(rooms)
    assert words in str(refused.value)


def test_sizes_are_rounded_up() -> None:
    assert in_mib(1) == "1 MiB"
    assert in_mib(1500 * MIB) == "1,500 MiB"
