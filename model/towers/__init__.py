"""The image tower and the text tower: created, loaded, saved, asked for features.

Importing torch and open_clip takes seconds. Of `batches` it imports the form of its input alone.
"""
