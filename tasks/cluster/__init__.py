"""Where training runs: this process or the processes of torchrun.

Imports `validation`.
"""
