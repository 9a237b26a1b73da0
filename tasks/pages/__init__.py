"""Pictures and self-contained pages: foreign text is presented, never obeyed.

Imports `runtime`; `answers` alone imports torch.
"""
