"""The stage that decides which version serves: `promote` is the door, `gate` has the checks.

Imports `registry` and `validation`.
"""
