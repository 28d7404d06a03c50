"""Names of databases that keep what was moved aside."""

from dbha.backup.aside import aside_name

RUN = "20261123T055443Z-e5c3"


def test_the_name_tells_run_and_database() -> None:
    assert aside_name(RUN, "nova_cell0") == "dbha_aside_20261123t055443z_e5c3_nova_cell0"


def test_long_names_that_begin_alike_stay_apart() -> None:
    first, second = (aside_name(RUN, f"nova_cell_of_the_third_region_in_building_{n}") for n in (1, 2))
    assert first != second
    assert len(first) == len(second) == 64
    assert first.startswith(aside_name(RUN, ""))
