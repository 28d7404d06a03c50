"""Which upgrades OpenStack tests: a table over all pairs, and the routes for the rest."""

import pytest

from dbha.errors import UsageError
from dbha.releases.catalogue import RELEASES, get_release, release_of_heads
from dbha.releases.hops import HopKind, check_hop
from dbha.services import GLANCE, KEYSTONE, NOVA, SERVICES

# Rows are sources and columns are targets, both in the order of RELEASES.
KINDS = {
    "=": HopKind.SAME,
    "a": HopKind.ADJACENT,
    "s": HopKind.SLURP,
    "<": HopKind.BACKWARDS,
    "u": HopKind.UNTESTED,
}
TABLE = {
    "2023.1": "= a s u u u u u",
    "2023.2": "< = a u u u u u",
    "2024.1": "< < = a s u u u",
    "2024.2": "< < < = a u u u",
    "2025.1": "< < < < = a s u",
    "2025.2": "< < < < < = a u",
    "2026.1": "< < < < < < = a",
    "2026.2": "< < < < < < < =",
}
PAIRS = [
    pytest.param(source, target.name, KINDS[letter], id=f"{source} to {target.name}")
    for source, row in TABLE.items()
    for target, letter in zip(RELEASES, row.split(), strict=True)
]


@pytest.mark.parametrize(("source", "target", "kind"), PAIRS)
def test_kind(source: str, target: str, kind: HopKind) -> None:
    assert check_hop(get_release(source), get_release(target)).kind is kind


@pytest.mark.parametrize(("source", "target", "kind"), PAIRS)
def test_a_route_is_made_of_tested_upgrades_and_ends_at_the_target(
    source: str, target: str, kind: HopKind
) -> None:
    via = check_hop(get_release(source), get_release(target)).via
    if kind in (HopKind.SAME, HopKind.BACKWARDS):
        assert via == ()
        return
    assert via[-1] == target
    for here, there in zip((source, *via), via, strict=False):
        assert check_hop(get_release(here), get_release(there)).is_allowed
    assert (len(via) == 1) == (kind is not HopKind.UNTESTED)


@pytest.mark.parametrize(
    ("source", "target", "via"),
    [
        pytest.param("2023.1", "2026.1", ("2024.1", "2025.1", "2026.1"), id="by SLURP releases only"),
        pytest.param(
            "2023.1", "2026.2", ("2024.1", "2025.1", "2026.1", "2026.2"), id="the last one adjacent"
        ),
        pytest.param("2023.2", "2025.1", ("2024.1", "2025.1"), id="first to the next SLURP release"),
        pytest.param("2024.2", "2025.2", ("2025.1", "2025.2"), id="two adjacent ones"),
        pytest.param("2025.1", "2026.2", ("2026.1", "2026.2"), id="a SLURP release ends every long hop"),
    ],
)
def test_shortest_route(source: str, target: str, via: tuple[str, ...]) -> None:
    hop = check_hop(get_release(source), get_release(target))
    assert hop.via == via
    assert f"upgrade to {', then '.join(via)}" in hop.explanation


def test_every_first_release_of_a_year_is_slurp() -> None:
    assert all(release.slurp == release.name.endswith(".1") for release in RELEASES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("2026.3", "did you mean 2026.2", id="a slip"),
        pytest.param("Caracal", "did you mean 2024.1?", id="a codename"),
        pytest.param("flamingos", "did you mean 2025.2?", id="nearly a codename"),
        pytest.param("yoga", "the releases are 2023.1, 2023.2", id="nothing close"),
    ],
)
def test_an_unknown_release_is_answered_with_close_matches_and_the_list(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_release(name)
    assert words in caught.value.hint
    assert "2025.2, 2026.1, 2026.2" in caught.value.hint


def test_heads_of_nova_are_those_of_one_release_or_of_several_that_changed_nothing() -> None:
    newest = {"nova_api": ["cdeec0c85668"], "nova_cell0": ["ab450ba04102"], "nova": ["ab450ba04102"]}
    assert [release.name for release in release_of_heads(NOVA, newest)] == ["2026.2"]
    older = {**newest, "nova_cell0": ["2903cd72dc14"], "nova": ["2903cd72dc14"]}
    assert [release.name for release in release_of_heads(NOVA, older)] == ["2025.1", "2025.2", "2026.1"]


@pytest.mark.parametrize(
    "heads",
    [
        pytest.param({}, id="no databases"),
        pytest.param({"nova_api": [], "nova_cell0": [], "nova": []}, id="empty databases"),
        pytest.param(
            {"nova_api": ["cdeec0c85668"], "nova_cell0": ["ab450ba04102"], "nova": ["2903cd72dc14"]},
            id="one cell synced and the other not",
        ),
    ],
)
def test_no_release_has_the_heads_of_a_half_synced_nova(heads: dict[str, list[str]]) -> None:
    assert release_of_heads(NOVA, heads) == ()


def test_heads_match_whatever_their_order_and_not_with_one_more() -> None:
    either = ["c88cdce8f248", "742c857f1dfb"]
    assert [release.name for release in release_of_heads(KEYSTONE, {"keystone": either})] == [
        "2026.1",
        "2026.2",
    ]
    between = ["2024_1_expand01", "2023_1_contract01"]
    assert release_of_heads(GLANCE, {"glance": between}) == ()


def test_each_release_names_what_to_install_and_the_heads_of_every_database() -> None:
    for release in RELEASES:
        distributions = {service.distribution for service in SERVICES.values()}
        assert set(release.versions) == distributions
        assert all(all(release.heads_of(service).values()) for service in SERVICES.values())
        assert "setuptools<81" in release.requirements()
    assert get_release("2026.2").requirements(constrained=True)[0] == "nova>=34,<35"
    assert get_release("2023.1").requirements()[-1] == "sqlalchemy<2"
