"""Which backups stay and which may go, and why: one pure function of the backups, the rules and the time.

Backups of the whole cluster are judged among themselves, and so are those of the same services.
A rule chooses among the good backups: those that are complete and whose base, if they need one, is complete too.
It chooses twice, once among those that were proven good and once among all, so that a backup nobody has verified
never takes the place of one that was. What the rules leave is still kept when somebody or something needs it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dbha.backup.store import Status
from dbha.config.model import RetentionPolicy


@dataclass(frozen=True, slots=True)
class Listed:
    """What retention has to know of one backup. `mark` and `run` are empty when nothing of the kind keeps it."""

    id: str
    created: datetime
    status: Status
    verified: bool = False
    base: str | None = None  # the backup that an incremental one cannot be restored without
    mark: str = ""  # the words of the mark that keeps it now
    run: str = ""  # the run that has not ended and names it
    lock: str = ""  # the words of the lock that holds it now
    part: str = ""  # the services that it holds and nothing else; empty for the whole cluster


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one backup stays, and why, in words."""

    id: str
    status: Status
    keep: bool
    reason: str


def decide(
    backups: Collection[Listed], policy: RetentionPolicy, now: datetime, *, also_spoilt: bool = False
) -> tuple[Decision, ...]:
    """Return a decision for every backup, in the order of their ids; the order they come in does not matter.

    The newest good backup and the last verified one stay whatever the rules say. What was complete once and is
    not good any more stays, too, until `also_spoilt` asks for it.
    """
    everything = sorted(backups, key=lambda backup: backup.id)
    good = good_ones(everything)
    chosen: dict[str, list[str]] = {}
    for part in sorted({backup.part for backup in good}):
        chosen |= _chosen_by_rules([backup for backup in good if backup.part == part], policy, now, part)
    good_ids = {backup.id for backup in good}
    reasons = {}
    for backup in everything:
        why = [*_why_needed(backup), *chosen.get(backup.id, ()), *_why_shown(backup, policy, now)]
        if backup.id not in good_ids and not also_spoilt:
            why += _why_quarantined(backup)
        if why:
            reasons[backup.id] = ", ".join(why)
    _keep_bases(everything, reasons)
    return tuple(
        Decision(
            backup.id,
            backup.status,
            keep=backup.id in reasons,
            reason=reasons.get(backup.id) or _why_deleted(backup, policy, good=backup.id in good_ids),
        )
        for backup in everything
    )


def good_ones(backups: Collection[Listed]) -> list[Listed]:
    """Return those that are complete, down to the full backup they are based on; the newest first."""
    by_id = {backup.id: backup for backup in backups}
    good = [backup for backup in backups if all(each is not None for each in _chain(backup, by_id))]
    return sorted(good, key=lambda backup: backup.id, reverse=True)


def deletion_order(decisions: Iterable[Decision], backups: Collection[Listed]) -> tuple[Decision, ...]:
    """Return what may go, what is based on another before that other: cut off anywhere, no base is missing."""
    by_id = {backup.id: backup for backup in backups}
    going = [decision for decision in decisions if not decision.keep]
    return tuple(sorted(going, key=lambda each: (-_depth(by_id[each.id], by_id), each.id)))


def _depth(backup: Listed, by_id: Mapping[str, Listed]) -> int:
    """Return how many backups it is based on, whatever became of them."""
    passed = [backup.id]
    while backup.base is not None and backup.base in by_id and backup.base not in passed:
        backup = by_id[backup.base]
        passed.append(backup.id)
    return len(passed)


def _chain(backup: Listed, by_id: Mapping[str, Listed]) -> list[Listed | None]:
    """Return a backup and what it is based on; None stands for whatever is not complete, or not there."""
    chain: list[Listed | None] = []
    next_one: Listed | None = backup
    while next_one is not None and next_one not in chain and next_one.status is Status.COMPLETE:
        chain.append(next_one)
        if next_one.base is None:
            return chain
        next_one = by_id.get(next_one.base)
    return [*chain, None]


def _chosen_by_rules(
    good: Sequence[Listed], policy: RetentionPolicy, now: datetime, part: str
) -> dict[str, list[str]]:
    """Return for each of these backups of one part that a rule wants, which rules they are."""
    of_part = f" of {part}" if part else ""
    proven = [backup for backup in good if backup.verified]
    wanted = [
        *((backup, f"the newest one{of_part}") for backup in good[:1]),
        *((backup, f"the last verified one{of_part}") for backup in proven[:1]),
        *_by_rules(proven, policy, now),
        *_by_rules(good, policy, now),
    ]
    chosen: dict[str, list[str]] = {}
    for backup, rule in wanted:
        if rule not in chosen.setdefault(backup.id, []):
            chosen[backup.id].append(rule)
    return chosen


def _by_rules(
    newest_first: Sequence[Listed], policy: RetentionPolicy, now: datetime
) -> Iterator[tuple[Listed, str]]:
    for backup in newest_first[: policy.last]:
        yield backup, f"last {policy.last}"
    for backup in newest_first:
        if policy.days and now - backup.created < timedelta(days=policy.days):
            yield backup, f"younger than {policy.days} days"
    for name, count, form in (
        ("hourly", policy.hourly, "%Y-%m-%d %H:00"),
        ("daily", policy.daily, "%Y-%m-%d"),
        ("weekly", policy.weekly, "%G-W%V"),
        ("monthly", policy.monthly, "%Y-%m"),
        ("yearly", policy.yearly, "%Y"),
    ):
        for period, backup in _newest_of_each(newest_first, form, count):
            yield backup, f"{name} {period}"


def _newest_of_each(newest_first: Sequence[Listed], form: str, count: int) -> Iterable[tuple[str, Listed]]:
    """Return the newest backup of each of the last `count` periods that have one; `form` names a period, in UTC."""
    newest: dict[str, Listed] = {}
    for backup in newest_first:
        newest.setdefault(backup.created.astimezone(UTC).strftime(form), backup)
    return list(newest.items())[:count]


def _why_needed(backup: Listed) -> Iterator[str]:
    if backup.status is Status.WRITING:
        yield "it is being written"
    if backup.run:
        yield f"run {backup.run} needs it"
    if backup.mark:
        yield backup.mark
    if backup.lock:
        yield backup.lock


def _why_shown(backup: Listed, policy: RetentionPolicy, now: datetime) -> Iterator[str]:
    if backup.status is Status.FAILED and now - backup.created < timedelta(days=policy.failed_days):
        yield f"what failed is shown for {policy.failed_days} days"


def _why_quarantined(backup: Listed) -> Iterator[str]:
    if backup.status in (Status.BAD, Status.DAMAGED):
        yield f"{backup.status} ones stay until you ask for them with --bad"
    if backup.status in (Status.COMPLETE, Status.ORPHANED):
        yield f"its base {backup.base} is not good: it stays until you ask for it with --bad"


def _keep_bases(everything: Sequence[Listed], reasons: dict[str, str]) -> None:
    """Add the bases of all that stays, down to the full backups."""
    by_id = {backup.id: backup for backup in everything}
    staying = [backup for backup in everything if backup.id in reasons]
    for backup in staying:  # grows while it is walked
        if backup.base in by_id and backup.base not in reasons:
            reasons[backup.base] = f"the base of {backup.id}"
            staying.append(by_id[backup.base])


def _why_deleted(backup: Listed, policy: RetentionPolicy, *, good: bool) -> str:
    if good:
        return "no rule wants it"
    match backup.status:
        case Status.COMPLETE | Status.ORPHANED:
            return f"its base {backup.base} is not good, and you asked for those"
        case Status.FAILED:
            return f"it failed, and is {policy.failed_days} days old or older"
        case Status.INTERRUPTED:
            return "it was cut off, and nobody is at it any more"
        case status:
            return f"it is {status}, and you asked for those"
