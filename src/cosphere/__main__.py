"""``python -m cosphere`` is the command ``cosphere``."""

import sys

from cosphere.cli import main

sys.exit(main())
