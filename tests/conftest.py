"""One thread for each process of the tests: several run side by side, and threads that wait for a core use it up."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
