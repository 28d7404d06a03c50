"""Policy in `dbha.yml`, hosts in the Ansible inventory, secrets elsewhere; read whole, checked whole."""

from dbha.config.load import find_configuration, load_configuration
from dbha.config.model import Configuration, ServicePolicy
from dbha.config.secrets import SecretSource

__all__ = ["Configuration", "SecretSource", "ServicePolicy", "find_configuration", "load_configuration"]
