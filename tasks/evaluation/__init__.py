"""The stage that evaluates a model on test: `evaluate` is the door, `report` the page of a version.

Imports `training` and `validation`. Behind the door `compare` asks all models the same `questions`;
`compare`, `measure` and `questions` import torch, the rest does not.
"""
