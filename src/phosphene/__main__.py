"""`python -m phosphene` is the command `phosphene`."""

import sys

from phosphene.cli import main

sys.exit(main())
