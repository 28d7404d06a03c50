"""The services as data: their commands as text, what exit codes mean, and the configuration commands get."""

from configparser import ConfigParser
from urllib.parse import unquote, urlsplit

import pytest

from dbha.errors import UsageError
from dbha.releases.configuration import Endpoint, render_config
from dbha.secrets import Secret
from dbha.services import (
    GLANCE,
    KEYSTONE,
    NOVA,
    PLACEMENT,
    SERVICES,
    Connection,
    Database,
    NativeCommand,
    Outcome,
    Schema,
    Service,
    SyncMethod,
    cell_mapping_commands,
    get_service,
    nova,
)
from dbha.services.model import SYNC_EXITS

PASSWORD = "p%:/@#?&=+ '$!\\x%41"
CONFIGURED = "--config-file /dev/stdin --config-dir /dev/null"


def lines(service: Service, method: SyncMethod = SyncMethod.OFFLINE) -> list[list[str]]:
    """Return each stage's commands as an operator would type them, without the configuration."""
    stages = service.stages(method)
    return [[" ".join(command.argv).replace(f" {CONFIGURED}", "") for command in stage] for stage in stages]


@pytest.mark.parametrize(
    ("service", "method", "stages"),
    [
        (PLACEMENT, "offline", [["placement-manage db sync"]]),
        (KEYSTONE, "offline", [["keystone-manage db_sync"]]),
        (GLANCE, "offline", [["glance-manage db sync"]]),
        (
            NOVA,
            "offline",
            [
                ["nova-manage api_db sync"],
                ["nova-manage db sync --local_cell", "nova-manage db sync --local_cell"],
            ],
        ),
        (
            KEYSTONE,
            "phases",
            [
                ["keystone-manage db_sync --expand"],
                ["keystone-manage db_sync --migrate"],
                ["keystone-manage db_sync --contract"],
            ],
        ),
        (
            GLANCE,
            "phases",
            [["glance-manage db expand"], ["glance-manage db migrate"], ["glance-manage db contract"]],
        ),
        (PLACEMENT, "phases", [["placement-manage db sync"]]),
    ],
    ids=lambda value: getattr(value, "name", value) if not isinstance(value, list) else "",
)
def test_commands(service: Service, method: str, stages: list[list[str]]) -> None:
    assert lines(service, SyncMethod(method)) == stages


def test_every_command_reads_its_configuration_from_standard_input_only() -> None:
    for service in SERVICES.values():
        for stage in service.stages():
            for command in stage:
                assert " ".join(command.argv[1:5]) == CONFIGURED


def test_each_cell_is_synced_in_its_own_database_after_nova_api() -> None:
    api, cells = nova(["nova", "nova_cell2"]).stages()
    assert [command.connections for command in api] == [(Connection("api_database", "nova_api"),)]
    assert [command.connections for command in cells] == [
        (Connection("database", "nova_cell0"),),
        (Connection("database", "nova"),),
        (Connection("database", "nova_cell2"),),
    ]


def test_nova_is_one_group_of_databases_with_two_schemas() -> None:
    assert NOVA.database_names == ("nova_api", "nova_cell0", "nova")
    assert [database.schema.name for database in NOVA.databases] == ["nova_api", "nova", "nova"]
    assert {database.collation for database in NOVA.databases} == {"utf8mb3_general_ci"}


@pytest.mark.parametrize(
    ("command", "returncode", "outcome", "words"),
    [
        pytest.param("sync keystone", 0, Outcome.DONE, "synced", id="keystone synced"),
        pytest.param("sync keystone", 1, Outcome.FAILED, "restore", id="keystone failed"),
        pytest.param("sync glance", 2, Outcome.FAILED, "nothing was changed", id="bad arguments"),
        pytest.param(
            "sync nova", 1, Outcome.FAILED, "whatever is said about its URL", id="nova blames cell0"
        ),
        pytest.param("sync nova", 255, Outcome.FAILED, "old code on a newer schema", id="nova failed"),
        pytest.param("sync nova", 3, Outcome.FAILED, "exit code 3", id="a code no table has"),
        pytest.param("sync nova", 137, Outcome.FAILED, "signal 9", id="killed"),
        pytest.param("sync nova", -15, Outcome.FAILED, "signal 15", id="terminated"),
        pytest.param("check keystone", 0, Outcome.DONE, "current", id="keystone current"),
        pytest.param("check keystone", 1, Outcome.FAILED, "newer than this code", id="keystone newer"),
        pytest.param("check keystone", 2, Outcome.MORE, "--expand", id="keystone to expand"),
        pytest.param("check keystone", 4, Outcome.MORE, "--contract", id="keystone to contract"),
        pytest.param("check glance", 3, Outcome.MORE, "db expand", id="glance to expand"),
        pytest.param("check glance", 4, Outcome.MORE, "db migrate", id="glance to migrate"),
        pytest.param("check glance", 5, Outcome.MORE, "db contract", id="glance to contract"),
        pytest.param("map nova as cell1", 2, Outcome.ALREADY, "mapped already", id="cell exists"),
        pytest.param("map nova as cell1", 1, Outcome.FAILED, "missing", id="cell without a URL"),
        pytest.param("migrate data of nova", 1, Outcome.MORE, "run it again", id="a batch migrated"),
        pytest.param("migrate data of nova", 2, Outcome.FAILED, "no others made progress", id="stuck"),
    ],
)
def test_what_exit_codes_mean(command: str, returncode: int, outcome: Outcome, words: str) -> None:
    meaning = all_commands()[command].meaning_of(returncode)
    assert meaning.outcome is outcome
    assert words in meaning.sentence
    assert meaning.is_success == (outcome in (Outcome.DONE, Outcome.ALREADY))


def all_commands() -> dict[str, NativeCommand]:
    commands = list(cell_mapping_commands(NOVA, ["nova_cell0", "nova"]))
    for service in SERVICES.values():
        commands += [command for stage in service.stages() for command in stage]
        commands += [command for command in (service.check, service.online_migrations) if command]
    return {command.title: command for command in commands}


def test_only_missing_cells_are_mapped_with_templates_and_no_password() -> None:
    assert cell_mapping_commands(NOVA, []) == ()
    assert cell_mapping_commands(KEYSTONE, ["keystone"]) == ()
    (command,) = cell_mapping_commands(NOVA, ["nova"])
    assert command.arguments == (
        "cell_v2",
        "create_cell",
        "--name",
        "cell1",
        "--database_connection",
        "{scheme}://{username}:{password}@{hostname}:{port}/nova?{query}",
        "--transport-url",
        "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}",
    )


def test_cell0_is_mapped_without_a_transport() -> None:
    (command,) = cell_mapping_commands(NOVA, ["nova_cell0"])
    assert command.arguments[:2] == ("cell_v2", "map_cell0")
    assert "--transport-url" not in command.arguments


def test_an_unknown_service_is_answered_with_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        get_service("heat")
    assert caught.value.hint == "the services are placement, keystone, glance, nova"


def test_a_service_is_found_by_name_and_nova_with_its_own_cells() -> None:
    assert get_service("glance") is GLANCE
    found = get_service("nova", cell_databases=["nova_a", "nova_b"])
    assert found.database_names == ("nova_api", "nova_cell0", "nova_a", "nova_b")


def test_adding_a_service_is_adding_data() -> None:
    connection = (Connection("database", "cinder"),)
    sync = NativeCommand("sync cinder", "cinder-manage", ("db", "sync"), connection, SYNC_EXITS)
    cinder = Service(
        name="cinder",
        distribution="cinder",
        databases=(Database("cinder", Schema("cinder", "cinder", "db/alembic.ini")),),
        account="cinder",
        sync={SyncMethod.OFFLINE: ((sync,),)},
    )
    assert lines(cinder) == [["cinder-manage db sync"]]
    assert cinder.tools == ("cinder-manage",)


def endpoint(**changes: object) -> Endpoint:
    values = {"address": "10.0.0.1", "port": 3306, "account": "nova_dbha", "password": Secret(PASSWORD)}
    return Endpoint(**(values | changes))  # type: ignore[arg-type]


def parsed(command: NativeCommand, **changes: object) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read_string(render_config(command, endpoint(**changes)).text.reveal())
    return parser


def test_a_configuration_has_each_connection_and_writes_no_files() -> None:
    command = all_commands()["migrate data of nova"]
    parser = parsed(command)
    url = urlsplit(parser["api_database"]["connection"])
    assert (url.scheme, url.hostname, url.port, url.path) == ("mysql+pymysql", "10.0.0.1", 3306, "/nova_api")
    assert urlsplit(parser["database"]["connection"]).path == "/nova"
    assert parser["DEFAULT"]["use_stderr"] == "true"
    assert parser["oslo_concurrency"]["disable_process_locking"] == "true"
    assert "log_file" not in parser["DEFAULT"]


def test_a_password_of_any_characters_is_encoded_once() -> None:
    url = urlsplit(parsed(all_commands()["sync nova"])["database"]["connection"])
    assert unquote(url.password or "") == PASSWORD
    assert url.hostname == "10.0.0.1"


def test_keystone_gets_its_password_beside_a_url_without_percent_signs() -> None:
    section = parsed(all_commands()["sync keystone"])["database"]
    assert "%" not in section["connection"]
    name, _, value = section["connection_parameters"].partition("=")
    assert (name, unquote(value)) == ("password", PASSWORD)


def test_an_ipv6_address_is_bracketed() -> None:
    url = urlsplit(parsed(all_commands()["sync glance"], address="fd00::1")["database"]["connection"])
    assert (url.hostname, url.port) == ("fd00::1", 3306)


def test_a_configuration_shows_no_password_and_hides_it_in_any_spelling() -> None:
    configuration = render_config(all_commands()["sync nova"], endpoint())
    assert PASSWORD not in repr(configuration)
    assert "mysql" not in repr(configuration)
    url = urlsplit(parsed(all_commands()["sync nova"])["database"]["connection"])
    for line in (f"plain {PASSWORD}", f"repr {PASSWORD!r}", f"encoded {url.password}"):
        redacted = configuration.redact(line)
        assert "***" in redacted
        assert "41" not in redacted


def test_an_empty_password_hides_nothing() -> None:
    configuration = render_config(all_commands()["sync nova"], endpoint(password=Secret("")))
    assert configuration.redact("as it was") == "as it was"
