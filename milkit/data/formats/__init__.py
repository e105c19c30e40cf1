"""Feature files of other tools, read in place: one layout a module.

`folder.py` finds the files of a folder and which tool wrote them, `trident.py` and `clam.py` know what each tool writes
where, `slide_files.py` makes a source of features of them, and `scale.py` takes level-0 pixels to micrometres.
"""
