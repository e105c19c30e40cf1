"""Feature files of other tools, read in place: one layout a module, all of them in `known.py`.

`kind.py` tells what kind of file something is, `find.py` which files a path holds and whose they are, `layout.py` is
what a module of a tool provides, `given.py` what the user adds, `slide_files.py` makes a source of features of both,
and `scale.py` takes pixels of level 0 to micrometres. Files of others are opened through `guard_*.py`, `npy_file.py`,
`npz_file.py`, `pt_file.py`, `pt_array.py` and `json_file.py`, which believe nothing that a file claims.
"""
