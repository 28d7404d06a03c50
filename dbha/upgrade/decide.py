"""Whether an upgrade may begin, and what it is. Pure: everything it knows was observed before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dbha.backup.donor import Candidate, choose_donor
from dbha.backup.estimate import Room, check_room
from dbha.cluster.assess import Verdict
from dbha.errors import DbhaError, UnreachableError, UnsafeError
from dbha.heads import Heads, in_words
from dbha.releases.catalogue import RELEASES, get_release, release_of_heads
from dbha.releases.hops import HopKind, check_hop
from dbha.releases.release import Release
from dbha.services import Service
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec


@dataclass(frozen=True, slots=True)
class ServiceSurvey:
    """What was found of one service: the release it runs, its heads, and those of the target's code."""

    service: Service
    release_now: str
    heads: Heads
    target_heads: Heads
    target_problem: str = ""  # why the target's code could not be asked
    target_hint: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was observed before an upgrade."""

    target: Release
    verdict: Verdict
    services: tuple[ServiceSurvey, ...]
    candidates: tuple[Candidate, ...]
    rooms: tuple[Room, ...]
    data_bytes: int
    missing_tools: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    cannot_open: str = ""  # why the backup could not be opened here
    allowed_hops: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Findings:
    """What speaks against the upgrade; the first unsafe thing decides the exit code, all of them are told."""

    unsafe: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        found = [*self.unsafe, *self.unreachable]
        if not found:
            return
        kind: type[DbhaError] = UnsafeError if self.unsafe else UnreachableError
        raise kind(
            "the upgrade may not begin:\n  - " + "\n  - ".join(found),
            hint="\n".join(dict.fromkeys(self.hints)),
        )


def decide(survey: Survey, backup_id: str) -> UpgradeSpec | None:
    """Return what the upgrade is, or None when every service is at the target already.

    Raises UnsafeError or UnreachableError that names everything in the way, not only the first thing.
    """
    findings = _Findings()
    _check_cluster(survey, findings)
    upgrades = [
        upgrade for each in survey.services if (upgrade := _check_service(survey, each, findings)) is not None
    ]
    if not upgrades and not findings.unsafe and not survey.missing_tools:
        findings.raise_if_any()
        return None
    donor = _check_donor(survey, findings)
    _check_room(survey, findings)
    findings.raise_if_any()
    assert survey.verdict.writer is not None
    return UpgradeSpec(
        target=survey.target.name,
        services=tuple(upgrades),
        donor=donor,
        writer=survey.verdict.writer,
        backup_id=backup_id,
        backup_bytes=survey.data_bytes,
        accepted=tuple(dict.fromkeys(findings.accepted)),
    )


def _check_cluster(survey: Survey, findings: _Findings) -> None:
    if survey.verdict.level != "healthy":
        away = [node for node in survey.verdict.nodes if not node.serves]
        target = findings.unreachable if away else findings.unsafe
        target += [f"the cluster is {survey.verdict.level}: {reason}" for reason in survey.verdict.reasons]
        findings.hints.append("dbha status     what the nodes say; start the missing ones first")
    findings.unreachable += [f"{tool} is not installed" for tool in survey.missing_tools]
    if survey.cannot_open:
        findings.unsafe.append(survey.cannot_open)
        findings.hints.append("docs/how-to/encrypt-backups.md     which identity the controller needs")
    findings.unsafe += [f"left over from an earlier run: {thing}" for thing in survey.leftovers]
    if survey.leftovers:
        findings.hints.append(
            "dbha runs list     which run left it; docs/runbooks/restore-failed.md how to put it back"
        )


def _check_service(survey: Survey, found: ServiceSurvey, findings: _Findings) -> ServiceUpgrade | None:
    """Return the service's part of the upgrade, None when it has none or may not have it."""
    name = found.service.name
    if not found.target_problem and survey.target not in release_of_heads(found.service, found.target_heads):
        findings.unsafe.append(
            f"{name}: the code that would sync it is not that of {survey.target.name}: it knows the schema"
            f" {in_words(found.target_heads)}"
        )
        return None
    source = get_release(found.release_now)
    if source == survey.target and found.heads == found.target_heads:
        return None
    synced_before = any(found.heads.values())
    if synced_before and not (
        _heads_fit(found, source, findings) and _hop_allowed(survey, source, name, findings)
    ):
        return None  # and nobody needs to install what would only be refused then
    if found.target_problem:
        findings.unreachable.append(f"{name}: {found.target_problem}")
        if found.target_hint:
            findings.hints.append(found.target_hint)
        return None
    return ServiceUpgrade(
        service=name,
        source=found.release_now,
        target=survey.target.name,
        before=found.heads,
        expected=found.target_heads,
    )


def _heads_fit(found: ServiceSurvey, source: Release, findings: _Findings) -> bool:
    """Tell whether the schema is that of the release the service is said to run, or one on the way to it."""
    at = release_of_heads(found.service, found.heads)
    if source in at:
        return True
    newest = max((RELEASES.index(release) for release in at), default=None)
    words = f"{found.service.name}: its schema is at {in_words(found.heads)}"
    if newest is None:
        findings.unsafe.append(f"{words}, which is no release's: half upgraded, or changed by hand")
    elif newest > RELEASES.index(source):
        findings.unsafe.append(f"{words}, newer than release {source.name} which it is said to run")
    else:
        findings.unsafe.append(f"{words}, older than release {source.name} which it is said to run")
    findings.hints.append(
        "dbha status     shows release and heads; services.NAME.release in dbha.yml says what runs"
    )
    return False


def _hop_allowed(survey: Survey, source: Release, service: str, findings: _Findings) -> bool:
    hop = check_hop(source, survey.target)
    if hop.kind is HopKind.BACKWARDS:
        findings.unsafe.append(
            f"{service}: its schema is newer than the code of {survey.target.name}: {hop.explanation}"
        )
        return False
    if hop.kind is not HopKind.UNTESTED:
        return True
    named = hop_name(source.name, survey.target.name)
    if named in survey.allowed_hops:
        findings.accepted.append(f"{named} is not tested by OpenStack; accepted by name")
        return True
    findings.unsafe.append(f"{service}: {hop.explanation}")
    findings.hints.append(f"dbha upgrade run --to {hop.via[0]}")
    findings.hints.append(
        f"--allow-hop '{named}'     takes the untested jump all the same, and the journal says so"
    )
    return False


def hop_name(source: str, target: str) -> str:
    """Return how a hop is named in the configuration and on the command line."""
    return f"{source} -> {target}"


def _check_donor(survey: Survey, findings: _Findings) -> str:
    try:
        return choose_donor(survey.candidates).node
    except UnsafeError as error:
        findings.unsafe.append(str(error))
        return ""


def _check_room(survey: Survey, findings: _Findings) -> None:
    try:
        check_room(survey.rooms)
    except UnsafeError as error:
        findings.unsafe.append(str(error))


def summary(spec: UpgradeSpec) -> list[str]:
    """Return the upgrade in a few lines, for the plan and for the journal's reader."""
    lines = [
        f"{each.service} {each.source} -> {each.target}: {_change(each.before, each.expected)}"
        for each in spec.services
    ]
    return [*lines, *(f"accepted: {exception}" for exception in spec.accepted)]


def _change(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> str:
    moved = [
        f"{database} {'/'.join(before[database]) or 'empty'} -> {'/'.join(after[database])}"
        for database in after
        if tuple(before.get(database, ())) != tuple(after[database])
    ]
    return "; ".join(moved) or "no schema change"
