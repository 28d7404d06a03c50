"""`dbha cluster bootstrap`, and the group of the verbs that act on a whole cluster."""

import click

from dbha.cli import recover
from dbha.cli.app import App
from dbha.cli.options import confirm, yes_option
from dbha.cluster.bootstrap import first_view, may_bootstrap, observe_datadirs
from dbha.cluster.plans import BootstrapSpec, bootstrap_plan
from dbha.journal import RunRecord
from dbha.upgrade.site import Site
from dbha.workflow import Plan

WORKFLOW = "cluster bootstrap"


@click.group("cluster")
def command() -> None:
    """Bring a cluster up, or back."""


command.add_command(recover.command)


@command.command("bootstrap")
@yes_option
@click.pass_obj
def bootstrap(app: App, yes: bool) -> None:
    """Make a new cluster of the nodes in the inventory.

    Refuses, with exit 4, when any node already has data or answers.
    """
    if app.site.certificates is not None:  # made, or missed, before anything else is done
        app.site.certificates.of(app.site.cluster.nodes)
    with app.controller(with_cluster=False) as controller, controller.holding(WORKFLOW) as holding:
        may_bootstrap(observe_datadirs(app.site.cluster))
        spec = BootstrapSpec(view=first_view(app.site.cluster.nodes))
        confirm(app.console, f"a new cluster is made of {', '.join(spec.view)}", yes=yes)
        holding.start(WORKFLOW, spec.model_dump(mode="json"), _plan(app.site, spec), app.watch)
    app.console.line(f"cluster {app.configuration.cluster} is up")


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a bootstrap that is being taken up."""
    return _plan(app.site, BootstrapSpec.model_validate(record.arguments))


def _plan(site: Site, spec: BootstrapSpec) -> Plan:
    configuration = site.configuration
    return bootstrap_plan(
        spec, site.cluster, configuration.inventory, configuration.state / "ansible", site.certificates
    )
