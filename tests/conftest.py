"""For all tests: every graph is verified after every step of the pipeline; object code is cached in a directory of its own."""

import os
import tempfile

os.environ.setdefault("TAPEJIT_VERIFY", "1")
_directory = tempfile.TemporaryDirectory(prefix="tapejit-tests-")
os.environ["TAPEJIT_CACHE_DIR"] = _directory.name
