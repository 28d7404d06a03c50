"""A lab by hand: `python -m tests.hosts up [HOSTS] [--bare] | down`. `make lab` and `make lab-down` call it."""

import argparse
import sys
from pathlib import Path

from tests.hosts.ground import NoLabError
from tests.hosts.lab import Lab, all_labs, make_lab, read_lab, remove_orphans
from tests.hosts.site import write_site


def main() -> int:
    """Do what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.hosts")
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("hosts", nargs="?", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="without the database's packages")
    arguments = parser.parse_args()
    try:
        return up(arguments.hosts, bare=arguments.bare) if arguments.verb == "up" else down()
    except NoLabError as error:
        print(f"no lab can be made here: {error}", file=sys.stderr)
        return 5


def up(hosts: int, *, bare: bool) -> int:
    """Make a lab that stays, and say how to use it."""
    lab = make_lab(hosts, database=not bare, owner=None)
    configuration = write_site(
        lab, lab.directory / "site", {"mariadb_install_packages": True} if bare else {}
    )
    tell(lab, configuration)
    return 0


def tell(lab: Lab, configuration: Path) -> None:
    """Say how to use the lab."""
    print(f"{len(lab.machines)} hosts are up:")
    for machine in lab.machines:
        print(f"  {machine.endpoint.ssh_line()}     # {machine.name}")
    print(f"\n  export DBHA_CONFIG={configuration}\n  dbha cluster bootstrap --yes && dbha status")
    print("\nand `make lab-down` removes all labs that were made by hand")


def down() -> int:
    """Remove every lab that was made by hand, and those that a dead run of the tests left."""
    with all_labs() as labs:
        removed = remove_orphans(labs)
        for directory in sorted(labs.iterdir()):
            if directory.is_dir() and (found := read_lab(directory)) is not None and found[1] is None:
                found[0].remove()
                removed.append(directory.name)
    print(f"removed: {', '.join(removed) or 'there was none'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
