"""python -m minivl: the same as the command minivl."""

import sys

from .cli import main

sys.exit(main())
