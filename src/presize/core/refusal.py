"""How long a refusal stands: asking again about the same head of the queue would give the same answer."""

from __future__ import annotations


class Refusal:
    """steps: more steps in which the waiting need not be asked about; 0 if nobody was refused.

    A refusal stands until a request ends, is preempted or has another forecast, a new head (for a first-fit policy: any
    newcomer) is queued, or the policy's ``refusal_steps`` have passed: until then nothing frees memory, and what a
    forecast says changes only by time going on.
    """

    def __init__(self) -> None:
        self.steps = 0

    def stand(self, steps: int) -> None:
        """The head of the queue was refused, for so many steps."""
        self.steps = steps

    def lift(self) -> None:
        """Something happened that may change it."""
        self.steps = 0

    def passed(self, steps: int) -> None:
        """So many steps were taken."""
        self.steps = max(self.steps - steps, 0)
