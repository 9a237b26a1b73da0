"""Pairs and captions become unit vectors, and columns of Parquet.

Costs what the towers cost. Imports `towers` and `batches`.
"""
