"""What is on disk is whole or absent: files, sealed folders, small tables, mapped caches.

A file appears under its name after an fsync and a rename (2 ms); a sealed folder is hashed when it
is read (1.7 GB/s). Imports `model.errors` alone.
"""
