"""Embeddings as files: the stage `export` by a registered version, `predict_file` by any model.

Imports `validation`.
"""
