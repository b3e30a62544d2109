"""Presize's decisions inside of other engines."""
