"""The stage that writes embeddings as Parquet: `export` for a registered version, `predict` for any
model.

Imports `validation`.
"""
