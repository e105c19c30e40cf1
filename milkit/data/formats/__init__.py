"""Feature files of other tools, read in place: one layout a module, listed in `known.py`.

`find.py` finds the files of a folder and which layout claims them, `source.py` puts their headers together,
`slide_files.py` is the source of features that is made of them, `given.py` what the user says where files do not, and
`scale.py` takes level-0 pixels to micrometres. `guard_*.py` stand between the layouts and what others wrote.
"""
