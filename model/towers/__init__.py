"""The image tower and the text tower: created, loaded, saved, asked for features.

Importing torch and open_clip takes seconds. From `batches` it imports only the
form of its input.
"""
