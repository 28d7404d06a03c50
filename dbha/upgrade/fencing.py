"""The fence as steps of a run: what was locked before is known from the intent, and stays locked after."""

from collections.abc import Callable, Sequence

from dbha.cluster.fence import ServiceAccount, accounts_writing_to, lift_fence, raise_fence
from dbha.cluster.handle import Cluster
from dbha.errors import UnsafeError
from dbha.inventory import Node
from dbha.journal import Facts, RunRecord
from dbha.schema.migration_account import PREFIX
from dbha.workflow import StepContext

FENCE = "fence"  # the name of the step that raises it


class Fencing:
    """Raises and lifts the fence of some databases; `writer` finds the node to say it to."""

    def __init__(self, cluster: Cluster, databases: Sequence[str], writer: Callable[[], Node]) -> None:
        self._cluster, self._databases, self._writer = cluster, databases, writer

    def intent(self) -> Facts:
        """Return the accounts to fence and which of them are locked already; changes nothing."""
        with self._cluster.session(self._writer()) as session:
            found = accounts_writing_to(session, self._databases)
        return {
            "accounts": [
                [account.user, account.host, account.locked]
                for account in found
                if not account.user.startswith(PREFIX)
            ]
        }

    def up(self, context: StepContext) -> Facts:
        """Keep the accounts of the intent out, and end their connections on every node."""
        accounts = _accounts(context.intent)
        ended = raise_fence(self._cluster, self._writer(), accounts, guard=context.guard)
        return {**context.intent, "note": f"{len(accounts)} accounts locked, {ended} connections ended"}

    def require_up(self) -> None:
        """Raise UnsafeError when somebody opened the fence: what was written since must not be thrown away."""
        opened = [user for user, host, locked in self.intent()["accounts"] if not locked]
        if opened:
            raise UnsafeError(
                f"the fence was opened by somebody: {', '.join(opened)} may have written since",
                hint="dbha runs abandon     leaves the data as it is now",
                unchanged="the data is as it was found",
            )

    def down(self, context: StepContext) -> Facts:
        """Let those in again that were not locked before."""
        accounts = _accounts(context.begun[FENCE])
        lift_fence(self._cluster, self._writer(), accounts, guard=context.guard)
        return {"note": f"{len(accounts)} accounts"}


def fenced_by(record: RunRecord) -> list[ServiceAccount]:
    """Return the accounts that a run locked, or was about to, and that were not locked before."""
    steps = [step for step in record.steps if step.name == FENCE]
    return [account for step in steps for account in _accounts(step.facts) if not account.locked]


def _accounts(facts: Facts) -> list[ServiceAccount]:
    return [ServiceAccount(*each) for each in facts.get("accounts", ())]
