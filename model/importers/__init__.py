"""Other people's product data sets become TSVs: a module a format, a table of kinds in `importing`.

Each source is read once, memory stays flat. Never imports torch; imports `pairs`.
"""
