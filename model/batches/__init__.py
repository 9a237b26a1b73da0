"""Rows of an index become uint8 images and token ids, a pure function of (seed, epoch, row).

Decoding runs ahead in threads or comes from a mapped cache. Knows no towers; imports `pairs`.
"""
