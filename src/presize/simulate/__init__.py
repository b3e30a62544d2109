"""The second executor: `core` and `predict` unchanged, on a virtual clock and a modelled device."""
