"""Which node a backup is read from."""

from dataclasses import replace

import pytest

from dbha.backup.donor import Candidate, choose_donor, why_desync
from dbha.config.model import DesyncPolicy
from dbha.errors import UnsafeError

WRITER = Candidate(
    "db1", synced=True, view_agrees=True, is_writer=True, is_donor=False, receive_queue=0, free_bytes=9
)
SECOND = replace(WRITER, name="db2", is_writer=False, free_bytes=5)
THIRD = replace(SECOND, name="db3", free_bytes=7)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        pytest.param([WRITER, SECOND, THIRD], "db3", id="most room among equals"),
        pytest.param([WRITER, SECOND, replace(THIRD, receive_queue=3)], "db2", id="least behind before room"),
        pytest.param([WRITER, SECOND, replace(THIRD, synced=False)], "db2", id="a node must be synced"),
        pytest.param([WRITER, SECOND, replace(THIRD, view_agrees=False)], "db2", id="its view must agree"),
        pytest.param([WRITER, SECOND, replace(THIRD, is_donor=True)], "db2", id="one donor's work is enough"),
        pytest.param([WRITER, SECOND, replace(THIRD, receive_queue=33)], "db2", id="not when it is behind"),
        pytest.param([WRITER, SECOND, replace(THIRD, lacks=("age",))], "db2", id="it must have the tools"),
        pytest.param([WRITER, SECOND, replace(THIRD, problem="is away")], "db2", id="its host must answer"),
        pytest.param([WRITER], "db1", id="a writer that is alone"),
        pytest.param([SECOND, replace(SECOND, name="db0")], "db0", id="the name decides in the end"),
    ],
)
def test_choice(candidates: list[Candidate], expected: str) -> None:
    choice = choose_donor(candidates)
    assert choice.node == expected
    assert set(choice.rejected) == {candidate.name for candidate in candidates} - {expected}


@pytest.mark.parametrize(
    ("candidates", "reasons"),
    [
        pytest.param(
            [WRITER, replace(SECOND, synced=False), replace(THIRD, is_donor=True)],
            ["db1 takes the writes", "db2 is not synced", "db3 is already a donor"],
            id="every reason is named",
        ),
        pytest.param(
            [replace(WRITER, lacks=("lz4", "age"))], ["db1 has no lz4, age"], id="tools are missing"
        ),
        pytest.param([replace(WRITER, synced=False)], ["db1 is not synced"], id="alone and not synced"),
        pytest.param([], ["the cluster has no nodes"], id="nobody at all"),
    ],
)
def test_refusal(candidates: list[Candidate], reasons: list[str]) -> None:
    with pytest.raises(UnsafeError) as refused:
        choose_donor(candidates)
    assert all(reason in str(refused.value) for reason in reasons)


def test_why_the_others_were_passed_over() -> None:
    away = replace(THIRD, name="db4", problem="has a host that cannot be used: no SSH server answered")
    assert choose_donor([WRITER, SECOND, THIRD, away, replace(THIRD, name="db5")]).rejected == {
        "db1": "takes the writes",
        "db2": "has less room",
        "db4": "has a host that cannot be used: no SSH server answered",
        "db5": "would do as well",
    }


LAGGING = replace(SECOND, receive_queue=4)


@pytest.mark.parametrize(
    ("policy", "donor", "others", "why"),
    [
        ("auto", SECOND, [WRITER, THIRD], ""),
        ("auto", replace(SECOND, receive_queue=3), [WRITER, THIRD], ""),
        ("auto", LAGGING, [WRITER, THIRD], "it is 4 write sets behind, and would hold up the others"),
        ("auto", LAGGING, [replace(WRITER, synced=False)], ""),
        ("auto", LAGGING, [], ""),
        ("always", SECOND, [WRITER], "the configuration says so"),
        ("always", WRITER, [], ""),
        ("never", LAGGING, [WRITER, THIRD], ""),
    ],
)
def test_when_a_donor_is_desynced(
    policy: DesyncPolicy, donor: Candidate, others: list[Candidate], why: str
) -> None:
    assert why_desync(policy, donor, [donor, *others]) == why
