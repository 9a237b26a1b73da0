"""Tiny towers, and torch in one thread."""

from tests.towers_fixtures import one_thread, towers

__all__ = ["one_thread", "towers"]
