"""Runs with a service's own Python, fed to its standard input: which heads has the installed code?

Alembic's ScriptDirectory is asked, configured as the tools configure it. The one argument is JSON, {schema:
{package, alembic_ini, config_function}}; the answer is one line of JSON, {"heads": {schema: [head]}, "problems":
{schema: text}}.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def find_heads(package: str, alembic_ini: str, config_function: str) -> list[str]:
    """Return the revisions that a fully synced database records, sorted."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    root = Path(next(iter(spec.submodule_search_locations)))
    if config_function:
        config = call_config_function(*config_function.split(":"))
    else:
        config = importlib.import_module("alembic.config").Config(str(root / alembic_ini))
    script_directory = importlib.import_module("alembic.script").ScriptDirectory
    return recorded_heads(script_directory.from_config(config))


def call_config_function(module_name: str, function_name: str) -> Any:
    """Return the service's own configuration of alembic, which wants a URL but does not connect."""
    module = importlib.import_module(module_name)
    global_options = importlib.import_module("oslo_config.cfg").CONF
    importlib.import_module("oslo_db.options").set_defaults(global_options, connection="sqlite://")
    return getattr(module, function_name)()


def recorded_heads(script: Any) -> list[str]:
    """Return the heads without those that another revision depends on.

    A database does not record them: glance's expand head is implied by the contract head that depends on it.
    """
    dependencies = [revision.dependencies or () for revision in script.walk_revisions()]
    names = [name for found in dependencies for name in ((found,) if isinstance(found, str) else found)]
    implied = {script.get_revision(name).revision for name in names}
    return sorted(set(script.get_heads()) - implied)


def main() -> None:
    """Answer on standard output; what a service prints while its migrations load goes to standard error."""
    answer_stream, sys.stdout = sys.stdout, sys.stderr
    answer: dict[str, dict[str, Any]] = {"heads": {}, "problems": {}}
    for name, source in json.loads(sys.argv[1]).items():
        try:
            answer["heads"][name] = find_heads(**source)
        except Exception as error:  # noqa: BLE001 - a schema that cannot be read must not hide the others
            answer["problems"][name] = f"{type(error).__name__}: {error}"
    answer_stream.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
