"""Embeddings as files: the stage `export` by a registered version, `predict` by any model.

Imports `validation`.
"""
