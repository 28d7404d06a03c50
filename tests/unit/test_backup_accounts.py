"""What is taken of SHOW GRANTS, who belongs to a service, and how restored accounts can be unlike the recorded."""

import pytest

from dbha.backup.accounts import (
    Accounts,
    BroughtBack,
    RecordedAccount,
    accounts_file,
    belonging_to,
    differences,
    in_order,
    packed,
    unpacked,
    without_credentials,
)

HASH = "*DF36E5B54597ED2F18F7B84728A226D0E55DCD7E"


def account(user: str, *grants: str, create: str = "") -> RecordedAccount:
    return RecordedAccount(user=user, host="%", grants=grants, create=create)


def role(name: str, *grants: str) -> RecordedAccount:
    return RecordedAccount(user=name, is_role=True, grants=grants)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f"GRANT USAGE ON *.* TO `nova`@`%` IDENTIFIED BY PASSWORD '{HASH}'", "GRANT USAGE ON *.* TO `nova`@`%`"),
        (
            f"GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` IDENTIFIED VIA mysql_native_password USING '{HASH}'"
            " OR unix_socket WITH GRANT OPTION",
            "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION",
        ),
        (
            "GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED VIA ed25519 USING 'it''s WITH GRANT OPTION' REQUIRE SSL",
            "GRANT USAGE ON *.* TO `a`@`%`",
        ),
        ("GRANT RELOAD ON *.* TO `it``s`@`10.%`", "GRANT RELOAD ON *.* TO `it``s`@`10.%`"),
        ("GRANT PROCESS ON *.* TO `watchers`", "GRANT PROCESS ON *.* TO `watchers`"),
        ("GRANT SELECT ON `nova`.* TO `nova`@`%`", "GRANT SELECT ON `nova`.* TO `nova`@`%`"),
        ("GRANT `readers` TO `nova`@`%`", "GRANT `readers` TO `nova`@`%`"),
    ],
)  # fmt: skip
def test_no_line_changes_a_password(said: str, kept: str) -> None:
    assert without_credentials(said) == kept


def test_columns_have_an_order() -> None:
    grant = "GRANT SELECT (`uuid`, `a, (b)`, `id`), UPDATE (`z`, `a`) ON `nova`.`instances` TO `a`@`%`"
    ordered = "GRANT SELECT (`a, (b)`, `id`, `uuid`), UPDATE (`a`, `z`) ON `nova`.`instances` TO `a`@`%`"
    assert in_order(grant) == ordered


@pytest.mark.parametrize(
    ("grant", "database", "belongs"),
    [
        ("GRANT SELECT ON `nova`.* TO `a`@`%`", "nova", True),
        ("GRANT SELECT ON `nova`.* TO `a`@`%`", "nova_api", False),
        (r"GRANT SELECT ON `nova\_api`.* TO `a`@`%`", "nova_api", True),
        (r"GRANT SELECT ON `nova\_api`.* TO `a`@`%`", "novaXapi", False),
        ("GRANT SELECT ON `nova_api`.* TO `a`@`%`", "novaXapi", True),
        ("GRANT SELECT ON `nova%`.* TO `a`@`%`", "nova_cell0", True),
        ("GRANT SELECT ON `%`.* TO `a`@`%`", "keystone", True),
        ("GRANT SELECT (`id`, `a``b`) ON `nova`.`instances` TO `a`@`%`", "nova", True),
        ("GRANT SELECT ON `nova_api`.`x` TO `a`@`%`", "novaXapi", False),
        ("GRANT EXECUTE ON PROCEDURE `nova`.`p` TO `a`@`%`", "nova", True),
        ("GRANT SELECT ON *.* TO `a`@`%`", "nova", False),
        ("GRANT PROXY ON 'nova'@'%' TO 'a'@'%'", "nova", False),
        ("GRANT `nova` TO `a`@`%`", "nova", False),
    ],
)
def test_which_grants_belong_to_a_database(grant: str, database: str, *, belongs: bool) -> None:
    found = belonging_to(Accounts(accounts=(account("a", grant),)), [database])
    assert bool(found) is belongs


def test_rights_by_a_role_count_and_global_rights_do_not() -> None:
    reads = "GRANT SELECT ON `keystone`.* TO `readers`"
    through = "GRANT `readers` TO `staff`"
    holds, default = "GRANT `staff` TO `anna`@`%`", "SET DEFAULT ROLE `staff` FOR `anna`@`%`"
    everything = Accounts(
        accounts=(
            account("anna", "GRANT RELOAD ON *.* TO `anna`@`%`", holds, default),
            account("bert", "GRANT ALL PRIVILEGES ON *.* TO `bert`@`%`"),
            account("glance", "GRANT SELECT ON `glance`.* TO `glance`@`%`"),
            role("readers", reads),
            role("staff", through),
        )
    )
    assert [(each.name, each.grants) for each in belonging_to(everything, ["keystone"])] == [
        ("role readers", (reads,)),
        ("role staff", (through,)),
        ("anna@%", (holds, default)),
    ]
    assert belonging_to(everything, ["placement"]) == ()


def test_what_changed_during_the_copy_is_not_compared() -> None:
    old, new = account("a", create="old"), account("a", create="new")
    before = Accounts(accounts=(old, account("b"), account("gone")))
    after = Accounts(accounts=(new, account("b"), account("came")))
    file = accounts_file(before, after, "accounts.json", "0" * 64)
    assert file.names == ("a@%", "b@%", "came@%")
    assert file.unsettled == ("a@%", "came@%", "gone@%")
    restored = Accounts(accounts=(old, account("b"), account("gone")))
    assert differences(after, restored, file.unsettled) == []
    assert differences(after, restored, ()) == [
        "account came@% is missing",
        "account gone@% was not there",
        "account a@% is another than it was",
    ]


def test_accounts_come_back_as_they_were_stored() -> None:
    accounts = Accounts(accounts=(account("größe", "GRANT USAGE ON *.* TO `größe`@`%`"), role("r")))
    assert unpacked(packed(accounts)) == accounts


def test_it_is_said_whose_passwords_are_used() -> None:
    assert str(BroughtBack()) == ""
    assert str(BroughtBack(("nova@%",), ("audit@%", "role r"), ("glance@%",))) == (
        "nova@%: made with the passwords of dbha's configuration; audit@%, role r: made as in the backup;"
        " glance@%: given rights again"
    )
