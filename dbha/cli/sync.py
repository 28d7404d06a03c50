"""`dbha sync`: the native sync of each service, then the proof that its schema is current."""

import click

from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.heads import in_words
from dbha.journal import RunRecord
from dbha.schema.plans import ServiceSync, SyncSpec, require_first_or_current, sync_plan
from dbha.upgrade.site import Site
from dbha.workflow import Plan

WORKFLOW = "sync"


@click.command("sync")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@json_option
@click.pass_obj
def command(app: App, services: tuple[str, ...], as_json: bool) -> None:
    """Run the native sync of the services against one node, and prove that their schemas are current.

    For a first installation, or to make sure. An older schema is upgraded by `dbha upgrade run`, which takes a
    verified backup first.

    \b
    Exits 0 when all are synced, 1 when one is not, 4 when it would be an upgrade.
    """
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = _decide(app.site, services)
        holding.start(WORKFLOW, spec.model_dump(mode="json"), _plan(app.site, spec), app.watch)
    if as_json:
        app.console.json(
            {"synced": True, "services": [each.model_dump(mode="json") for each in spec.services]}
        )
        return
    for each in spec.services:
        app.console.line(f"{each.service} {each.release} is current: {in_words(each.expected)}")


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a sync that is being taken up."""
    return _plan(app.site, SyncSpec.model_validate(record.arguments))


def _plan(site: Site, spec: SyncSpec) -> Plan:
    return sync_plan(
        spec,
        site.cluster,
        site.writer,
        lambda each: site.job(each.service, each.release, dict(each.expected)),
    )


def _decide(site: Site, names: tuple[str, ...]) -> SyncSpec:
    services = site.chosen_services(names)
    writer = site.writer()
    releases, heads = site.releases_now(writer), site.heads_now(writer)
    chosen = []
    for name in services:
        expected = site.code_heads(name, releases[name])
        require_first_or_current(name, releases[name], heads[name], expected)
        chosen.append(
            ServiceSync(service=name, release=releases[name], before=heads[name], expected=expected)
        )
    return SyncSpec(services=tuple(chosen))
