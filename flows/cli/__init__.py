"""What is typed and what is printed: arguments, commands, tables.

Imports nothing heavy until a command is chosen, so `--help` answers at once.
"""
