"""What the cluster is like now, for people and for monitoring; only reads."""
