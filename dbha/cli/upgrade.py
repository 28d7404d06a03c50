"""`dbha upgrade plan | run`: the main job."""

import click

from dbha.backup.manifest import new_backup_id
from dbha.cli.app import App
from dbha.cli.options import Command, confirm, json_option, yes_option
from dbha.console import in_bytes, in_seconds
from dbha.journal import RunRecord
from dbha.journal import as_json as run_as_json
from dbha.releases.catalogue import get_release
from dbha.upgrade.decide import decide, summary
from dbha.upgrade.plan import BACKUP, upgrade_plan
from dbha.upgrade.site import Site
from dbha.upgrade.spec import UpgradeSpec
from dbha.upgrade.survey import survey_upgrade
from dbha.upgrade.world import ClusterWorld
from dbha.workflow import Plan
from dbha.workflow.plan import describe

WORKFLOW = "upgrade"


@click.group("upgrade")
def command() -> None:
    """Upgrade the schemas of services to another release, with a way back."""


def _upgrade_options(function: Command) -> Command:
    for option in (
        click.option("--to", "target", required=True, metavar="RELEASE", help="The release to upgrade to."),
        click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; repeatable."),
        click.option(
            "--allow-hop", "allow_hops", multiple=True, metavar="'A -> B'",
            help="Accept, by name, a jump that OpenStack does not test; it is journaled.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("plan")
@_upgrade_options
@json_option
@click.pass_obj
def plan(
    app: App, target: str, services: tuple[str, ...], allow_hops: tuple[str, ...], as_json: bool
) -> None:
    """Show what an upgrade would do. Exits 0 when it may begin, 4 or 5 when not; nothing is changed."""
    show_plan(app, _decide(app.site, target, services, allow_hops), target, as_json=as_json)


@command.command("run")
@_upgrade_options
@click.option("--dry-run", is_flag=True, help="Show the plan that would run, and stop.")
@yes_option
@json_option
@click.pass_obj
def run(
    app: App,
    target: str,
    services: tuple[str, ...],
    allow_hops: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take a verified backup, fence the services, run their real schema syncs, and prove the result.

    When anything goes wrong, everything is put back as it was.

    \b
    Exits 0 when all of it succeeded, or there was nothing to do; 4 or 5 when it may not begin; 6 when no good
    backup was made; 7 when it failed and everything was put back; 8 when a human is needed; 9 when another run
    holds the cluster; 10 when an interrupted run comes first.
    """
    if dry_run:
        show_plan(app, _decide(app.site, target, services, allow_hops), target, as_json=as_json)
        return
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = _decide(app.site, target, services, allow_hops)
        if spec is None:
            _say_nothing_to_do(app, target, as_json=as_json)
            return
        for line in summary(spec):
            app.console.say(line)
        confirm(
            app.console, "these services are fenced meanwhile: they cannot write until it is done", yes=yes
        )
        outcome = holding.start(
            WORKFLOW, spec.model_dump(mode="json"), upgrade_plan(spec, world(app.site)), app.watch
        )
        show_outcome(app, app.journal.run(outcome.run_id), as_json=as_json)


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a run that is being taken up: the very one it began with."""
    return upgrade_plan(UpgradeSpec.model_validate(record.arguments), world(app.site))


def world(site: Site) -> ClusterWorld:
    """Return the real cluster as an upgrade acts on it."""
    return ClusterWorld(
        site.cluster,
        site.shelf,
        site.services,
        site.verdict,
        lambda upgrade: site.job(upgrade.service, upgrade.target, dict(upgrade.expected)),
    )


def _decide(
    site: Site, target: str, services: tuple[str, ...], allow_hops: tuple[str, ...]
) -> UpgradeSpec | None:
    survey = survey_upgrade(site, get_release(target), services, frozenset(allow_hops))
    return decide(survey, new_backup_id())


def show_plan(app: App, spec: UpgradeSpec | None, target: str, *, as_json: bool) -> None:
    """Print the plan on stdout."""
    if spec is None:
        _say_nothing_to_do(app, target, as_json=as_json)
        return
    steps = upgrade_plan(spec, world(app.site))
    if as_json:
        app.console.json(
            {"title": steps.title, "spec": spec.model_dump(mode="json"), "steps": describe(steps)}
        )
        return
    app.console.line(f"{steps.title} on cluster {app.configuration.cluster}")
    for line in summary(spec):
        app.console.line(f"  {line}")
    for number, step in enumerate(steps.steps(), 1):
        detail = f" (reads about {in_bytes(spec.backup_bytes)})" if step.name == BACKUP else ""
        app.console.line(f"{number:>3}. {step.title}{detail}")
    app.console.line(
        "if anything fails before the last proof: put back what was touched, lift the fence, exit 7"
    )
    app.console.say("nothing was changed")


def show_outcome(app: App, record: RunRecord, *, as_json: bool) -> None:
    """Print what was done and how long each step took."""
    spec = UpgradeSpec.model_validate(record.arguments)
    if as_json:
        app.console.json({"outcome": "upgraded", "run": run_as_json(record)})
        return
    app.console.line(f"upgraded to {spec.target}; run {record.id}, backup {spec.backup_id}")
    for line in summary(spec):
        app.console.line(f"  {line}")
    app.console.table(
        ("STEP", "SECONDS"), [(step.title, f"{step.seconds:.1f}") for step in record.steps if step.ended]
    )
    app.console.line(f"in all {in_seconds(record.seconds)}")


def _say_nothing_to_do(app: App, target: str, *, as_json: bool) -> None:
    if as_json:
        app.console.json({"outcome": "nothing to do", "run": None})
    app.console.say(f"every service is at {target} already; nothing was changed")
