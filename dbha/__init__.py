"""dbha: a high-availability manager for the database cluster of an OpenStack control plane."""

__version__ = "0.1.0"
