"""`python -m milkit`."""

import sys

from milkit.cli import main

sys.exit(main())
