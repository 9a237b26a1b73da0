"""Models as others publish them become ours, and ours theirs.

`family` lists what is known, `importing` is the door, `forms/` has a module a form. An import takes
about 10 s a gigabyte and the file's size in memory. May import `towers`.
"""
