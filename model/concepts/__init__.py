"""Concepts: mined from captions, kept as a table, named by captions, prototypes in a queue.

Mining two million captions takes minutes, a step of the queue less than a millisecond. Imports
`embeddings`.
"""
