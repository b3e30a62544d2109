"""Every decision: admission, order, preemption. numpy only: no torch, no I/O, no clock of its own."""
