"""Observe the cluster, judge it, bring it up, and hold it for one run at a time."""
