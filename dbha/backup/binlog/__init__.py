"""Binary logs: archive them from the nodes, know which points in time they reach, and replay them."""
