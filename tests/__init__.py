"""Tests run side by side, a core each: no library may start threads, forked processes above all."""

import os

for _variable in ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS"):
    os.environ.setdefault(_variable, "1")
