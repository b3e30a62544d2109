"""Every decision: admission, order, preemption. numpy only: no torch, no I/O, no clock of its own."""

from presize.core import admission_history  # noqa: F401  registers its policies beside those of `admission`
