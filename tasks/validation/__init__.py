"""A data version is validated, and which accepted pairs a stage reads is decided here.

The only wing that imports Great Expectations, which takes seconds to load. Imports `registry`.
"""
