"""Plans that survive their process: every step is journaled before and after, and knows how to be undone."""

from dbha.workflow.engine import Engine, Observer, Outcome, StopRequest
from dbha.workflow.plan import Plan, Stage, Step, StepContext

__all__ = ["Engine", "Observer", "Outcome", "Plan", "Stage", "Step", "StepContext", "StopRequest"]
