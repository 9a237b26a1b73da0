"""The stage that decides which version serves: `promote` is the door, `gate` has the checks.

Imports `registry`, `validation`, and of `training` the base weights.
"""
