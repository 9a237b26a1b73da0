"""The stage that evaluates a model on the test split: `evaluate` is the door; tables, charts, model
card and report beside it.

Imports `training` and `validation`.
"""
