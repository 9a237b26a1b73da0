"""Pictures and self-contained HTML: foreign text is shown, never obeyed.

Imports `runtime`.
"""
