"""Makes the toys importable: pytest imports tests by file, a killed process imports them by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
