"""May an upgrade begin? A table of what is found against what is decided."""

from dataclasses import replace

import pytest

from dbha.backup.donor import Candidate
from dbha.backup.estimate import Room
from dbha.cluster.assess import NodeVerdict, Verdict
from dbha.errors import DbhaError, UnreachableError, UnsafeError
from dbha.heads import Heads
from dbha.releases.catalogue import get_release
from dbha.services import get_service
from dbha.upgrade.decide import ServiceSurvey, Survey, decide, summary
from dbha.upgrade.plan import World, upgrade_plan
from dbha.upgrade.spec import UpgradeSpec
from dbha.workflow import Step

BACKUP = "20261123T000000Z-0000"


def verdict(*away: str) -> Verdict:
    nodes = tuple(
        NodeVerdict(
            name, "unreachable" if name in away else "Synced", name not in away, True, name not in away, ""
        )
        for name in ("node1", "node2", "node3")
    )
    writer = next((node.name for node in nodes if node.serves), None)
    reasons = tuple(f"{name} does not answer" for name in away)
    return Verdict("degraded" if away else "healthy", reasons, nodes, writer, may_write=writer is not None)


def heads(service: str, release: str) -> Heads:
    return dict(get_release(release).heads_of(get_service(service)))


def found(service: str, now: str, target: str, **changes: object) -> ServiceSurvey:
    survey = ServiceSurvey(get_service(service), now, heads(service, now), heads(service, target))
    return replace(survey, **changes)  # type: ignore[arg-type]


def survey(target: str, *services: ServiceSurvey, **changes: object) -> Survey:
    candidates = tuple(
        Candidate(name, True, True, name == "node1", False, 0, 0) for name in ("node1", "node2", "node3")
    )
    made = Survey(get_release(target), verdict(), services, candidates, (), 1000)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_allowed_hop_is_decided() -> None:
    spec = decide(survey("2026.1", found("nova", "2025.1", "2026.1")), BACKUP)
    assert spec is not None
    assert (spec.donor, spec.writer, spec.backup_id) == ("node2", "node1", BACKUP)
    assert spec.databases == ("nova_api", "nova_cell0", "nova")
    assert spec.accepted == ()


def test_nothing_to_do_when_all_are_at_the_target() -> None:
    assert decide(survey("2026.2", found("nova", "2026.2", "2026.2")), BACKUP) is None


def test_only_services_that_are_behind_take_part() -> None:
    spec = decide(
        survey("2026.2", found("nova", "2026.2", "2026.2"), found("keystone", "2026.1", "2026.2")), BACKUP
    )
    assert spec is not None
    assert [each.service for each in spec.services] == ["keystone"]


def test_a_named_exception_is_kept_in_the_spec() -> None:
    spec = decide(
        survey("2026.2", found("nova", "2025.1", "2026.2"), allowed_hops=frozenset({"2025.1 -> 2026.2"})),
        BACKUP,
    )
    assert spec is not None
    assert spec.accepted == ("2025.1 -> 2026.2 is not tested by OpenStack; accepted by name",)
    assert any("accepted" in line for line in summary(spec))


def test_an_empty_schema_is_no_hop() -> None:
    empty = dict.fromkeys(heads("glance", "2026.2"), ())
    spec = decide(survey("2026.2", found("glance", "2025.1", "2026.2", heads=empty)), BACKUP)
    assert spec is not None
    assert spec.services[0].before == {"glance": ()}


@pytest.mark.parametrize(
    ("looked", "kind", "said"),
    [
        pytest.param(
            survey("2024.2", found("nova", "2023.1", "2024.2")), UnsafeError, "2023.1 to 2024.2", id="untested hop"
        ),
        pytest.param(
            survey("2025.1", found("nova", "2026.2", "2025.1")), UnsafeError, "newer than the code", id="backwards"
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2", heads=heads("nova", "2026.2"), release_now="2025.2")),
            UnsafeError, "newer than release 2025.2", id="schema newer than the release it is said to run",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2",
                                   heads={**heads("nova", "2026.1"), "nova_cell0": ("ab450ba04102",)})),
            UnsafeError, "no release's", id="half upgraded",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2"), verdict=verdict("node3")),
            UnreachableError, "node3 does not answer", id="a node is down",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2", target_problem="2026.2 is not installed")),
            UnreachableError, "2026.2 is not installed", id="release not installed",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2"), cannot_open="encrypted for age1x"),
            UnsafeError, "encrypted for age1x", id="no key for its backup",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2"), missing_tools=("zstd",)),
            UnreachableError, "zstd is not installed", id="tool missing",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2"), rooms=(Room("the backup store", "a:/", 10, 5),)),
            UnsafeError, "too little room", id="no room",
        ),
        pytest.param(
            survey("2026.2", found("nova", "2026.1", "2026.2"), leftovers=("database dbha_aside_x",)),
            UnsafeError, "dbha_aside_x", id="tables still aside",
        ),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_named(looked: Survey, kind: type[DbhaError], said: str) -> None:
    with pytest.raises(kind) as caught:
        decide(looked, BACKUP)
    assert said in str(caught.value)


def test_everything_in_the_way_is_told_at_once() -> None:
    with pytest.raises(UnsafeError) as caught:
        decide(
            survey(
                "2024.2", found("nova", "2023.1", "2024.2"), verdict=verdict("node2"), missing_tools=("zstd",)
            ),
            BACKUP,
        )
    assert all(word in str(caught.value) for word in ("2023.1 to 2024.2", "node2", "zstd"))
    assert "dbha upgrade run --to 2024.1" in caught.value.hint


class PaperWorld:
    """A world that can only be planned for: any call would fail."""

    def restore(self, spec: UpgradeSpec, upgrade: object) -> tuple[()]:
        return ()

    def drop_aside(self, spec: UpgradeSpec, upgrade: object) -> Step:
        return Step("drop", "drop", lambda context: {})

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: pytest.fail(f"{name} was called while planning")


def test_the_plan_reads_as_an_operator_expects() -> None:
    spec = decide(
        survey("2026.1", found("keystone", "2025.1", "2026.1"), found("nova", "2025.1", "2026.1")), BACKUP
    )
    assert spec is not None
    world: World = PaperWorld()  # type: ignore[assignment]
    assert [step.title for step in upgrade_plan(spec, world).steps()] == [
        "fence keystone, nova",
        "take a backup on node2",
        "record the checksums of keystone, nova",
        "verify the backup",
        "sync keystone from 2025.1 to 2026.1 on node1",
        "sync nova from 2025.1 to 2026.1 on node1",
        "prove keystone, nova current on all nodes",
        "note the releases in the cluster",
        "lift the fence of keystone, nova",
        "remove what only this run needed",
    ]
