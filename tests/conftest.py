"""What all tests share: no network, quiet libraries, and settings of Hypothesis that suit a busy machine."""

import os
import tempfile

os.environ["INTERLACE_CACHE_DIR"] = tempfile.mkdtemp(prefix="interlace-tests-")  # nothing learned on another day
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see interlace/cli.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

from hypothesis import HealthCheck, settings

settings.register_profile("interlace", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("interlace")
