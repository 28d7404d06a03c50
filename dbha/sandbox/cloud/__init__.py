"""A synthetic cloud: as many servers as wanted, in the real schemas of every release, to try things out on."""

from dbha.sandbox.cloud.load import CloudCounts, load_cloud

__all__ = ["CloudCounts", "load_cloud"]
