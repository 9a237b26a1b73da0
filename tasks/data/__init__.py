"""Data versions: DVC and git, checked byte for byte, swapped whole.

Hashing runs at the disk's speed. The only wing that calls DVC; imports `runtime`.
"""
