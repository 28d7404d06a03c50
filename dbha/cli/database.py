"""`dbha database create | access`: schemas, accounts and grants, and how to connect with them."""

from urllib.parse import quote

import click

from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.journal import RunRecord
from dbha.schema.plans import ProvisionSpec, provision_plan
from dbha.upgrade.site import Site
from dbha.workflow import Plan

WORKFLOW = "database create"


@click.group("database")
def command() -> None:
    """Databases and accounts of the services."""


@command.command("create")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@json_option
@click.pass_obj
def create(app: App, services: tuple[str, ...], as_json: bool) -> None:
    """Make the databases, accounts and grants of the services; a second run changes nothing."""
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = ProvisionSpec(services=tuple(app.site.chosen_services(services)))
        outcome = holding.start(WORKFLOW, spec.model_dump(mode="json"), _plan(app.site, spec), app.watch)
    made = outcome.facts["provision"]
    if as_json:
        app.console.json({"databases": list(made["databases"]), "accounts": list(made["accounts"])})
        return
    app.console.line(f"databases made: {', '.join(made['databases']) or 'none'}")
    app.console.line(f"accounts made or changed: {', '.join(made['accounts']) or 'none'}")


@command.command("access")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--show-passwords", is_flag=True, help="Print the passwords too.")
@json_option
@click.pass_obj
def access(app: App, services: tuple[str, ...], show_passwords: bool, as_json: bool) -> None:
    """Print the connection URLs for the services' own configuration files."""
    site = app.site
    node = site.cluster.node(site.writer().name)
    urls: dict[str, str] = {}
    for name, service in site.chosen_services(services).items():
        password = site.secrets.get(f"{name}_password").reveal() if show_passwords else "PASSWORD"
        for database in service.database_names:
            urls[database] = (
                f"mysql+pymysql://{service.account}:{quote(password, safe='')}"
                f"@{node.address}:{node.port}/{database}?charset=utf8"
            )
    if as_json:
        app.console.json({"urls": urls})
        return
    for database, url in urls.items():
        app.console.line(f"{database:>12}  {url}")


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a run that is being taken up."""
    return _plan(app.site, ProvisionSpec.model_validate(record.arguments))


def _plan(site: Site, spec: ProvisionSpec) -> Plan:
    passwords = {name: site.secrets.get(f"{name}_password") for name in spec.services}
    return provision_plan(spec, site.cluster, site.writer, site.services, passwords)
