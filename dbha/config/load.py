"""Find, read and check `dbha.yml`."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dbha.config.model import Configuration
from dbha.errors import ConfigurationError

SANDBOX_CONFIGURATION = Path(".dbha/sandbox/dbha.yml")

_KIND_OF_SECRET = "AGE-SECRET-KEY-"  # noqa: S105  # what they begin with

# The keys of each kind of store that are paths on this machine.
_PATHS = {
    "directory": ("directory",),
    "sftp": ("private_key_file", "known_hosts_file"),
    "s3": ("ca_file",),
}


def find_configuration(argument: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the file that design section 5 says to use; the caller tells the operator which one it is.

    Raises ConfigurationError when none exists, naming the places that were looked at.
    """
    if argument is not None:
        candidates = [argument]
    elif environment.get("DBHA_CONFIG"):
        candidates = [Path(environment["DBHA_CONFIG"])]
    else:
        candidates = [Path("dbha.yml"), Path("/etc/dbha/dbha.yml"), SANDBOX_CONFIGURATION]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise ConfigurationError(
        "the configuration",
        [f"{candidate}: no such file" for candidate in candidates],
        hint="dbha sandbox up     makes a cluster to try, with its configuration",
    )


def load_configuration(path: Path) -> Configuration:
    """Return the checked configuration. Raises ConfigurationError with every mistake and its path."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), [f"is not YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise ConfigurationError(str(path), ["must be a mapping of keys to values"])
    try:
        checked = Configuration.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(str(path), _describe(error)) from error
    if checked.backup.store not in checked.backup.stores:
        raise ConfigurationError(str(path), [f"backup.store: no store is called `{checked.backup.store}`"])
    return _absolute(checked, path.parent)


def _absolute(configuration: Configuration, base: Path) -> Configuration:
    data = configuration.model_dump()
    for section, key in [
        (data, "inventory"),
        (data, "state"),
        (data["secrets"], "file"),
        (data["secrets"], "vault_password_file"),
        (data["secrets"], "identity_file"),
        (data["releases"], "directory"),
        *((store, key) for store in data["backup"]["stores"].values() for key in _PATHS[store["kind"]]),
        (data["backup"]["archive"], "directory"),
        *((section, "directory") for section in (data["tls"],) if section),
        *((section, "recipients_file") for section in (data["backup"]["encryption"],) if section),
    ]:
        if section[key] is not None:
            section[key] = Path(os.path.normpath(base / Path(section[key]).expanduser()))
    return Configuration.model_validate(data)


def _describe(error: ValidationError) -> list[str]:
    return [
        _describe_one(item["loc"], item["type"], item["msg"], item.get("input")) for item in error.errors()
    ]


def _describe_one(loc: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    if loc[:2] == ("backup", "stores") and len(loc) > 3:
        loc = (*loc[:3], *loc[4:])  # without the kind of store, which is no key
    where = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "extra_forbidden":
        return f"{where}: unknown key{_suggest(str(loc[-1]), _known_keys(loc[:-1]))}"
    if kind == "missing":
        return f"{where}: required, but missing"
    if kind == "literal_error" and "[key]" in loc:
        return f"{where}: unknown name; one of placement, keystone, glance, nova"
    if isinstance(value, str) and _KIND_OF_SECRET in value.upper():
        return f"{where}: has a secret key in it; the recipient is its public key, `age-keygen -y` shows it"
    return f"{where}: {message[0].lower()}{message[1:]}, found {value!r}"


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(known)}"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the section at `loc` knows, by walking the model's annotations."""
    models: list[type[BaseModel]] = [Configuration]
    for part in loc:
        inner: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            inner += _models_in(field.annotation) if field else []
        models = inner or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
