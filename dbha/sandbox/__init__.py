"""A real cluster of plain processes on this machine, in one directory, to try everything out on."""

from dbha.sandbox.down import down
from dbha.sandbox.layout import Sandbox, read_sandbox
from dbha.sandbox.processes import kill_node, start_node, stop_sandbox
from dbha.sandbox.up import UpResult, up

__all__ = ["Sandbox", "UpResult", "down", "kill_node", "read_sandbox", "start_node", "stop_sandbox", "up"]
