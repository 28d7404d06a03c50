"""OpenStack releases: what they are, how far one upgrade may go, and where their native commands run."""
