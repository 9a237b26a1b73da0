"""A drop of pairs becomes the current data version, whole or not at all: `ingest` is the door.

Imports `validation` and `data`.
"""
