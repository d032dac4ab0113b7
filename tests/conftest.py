"""For all tests: every graph is verified after every step of the pipeline."""

import os

os.environ.setdefault("TAPEJIT_VERIFY", "1")
