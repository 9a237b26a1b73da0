"""Losses, objective, optimiser, loop and checkpoints: training that resumes to the bit.

`loop` is the door; `distributed` is all that knows of other processes. Imports `concepts`.
"""
