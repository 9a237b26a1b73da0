"""The stages that train: `train` is the door; base weights, concepts, curves and the report beside
it.

Imports `cluster` and `validation`.
"""
