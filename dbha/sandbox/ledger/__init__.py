"""Writers that prove that nothing was lost: they number their rows, and remember which the cluster acknowledged."""

from dbha.sandbox.ledger.check import LedgerCheck, check, erase
from dbha.sandbox.ledger.process import WriterProcess
from dbha.sandbox.ledger.report import Acknowledgement, LedgerReport
from dbha.sandbox.ledger.tables import TABLES, LedgerTable
from dbha.sandbox.ledger.writer import Writer, WriterSettings

__all__ = [
    "TABLES",
    "Acknowledgement",
    "LedgerCheck",
    "LedgerReport",
    "LedgerTable",
    "Writer",
    "WriterProcess",
    "WriterSettings",
    "check",
    "erase",
]
