"""A TSV on disk becomes validated lines: read, decoded, profiled, compared, indexed.

One streaming pass a file with flat memory. Never imports torch; imports `storage` and `config`.
"""
