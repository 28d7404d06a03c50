"""A joiner is judged by what moves, never by a clock alone."""

from dbha.cluster.joining import Moves


def test_who_moves_is_waited_for_however_long_it_takes() -> None:
    now = [0.0]
    moves = Moves(lambda: now[0])
    for size in range(1000):
        now[0] += 100
        assert moves.still_s((size, 0, None)) == 0
    now[0] += 119
    assert moves.still_s((999, 0, None)) == 119
    now[0] += 1
    assert moves.still_s((999, 1, None)) == 0
