"""A module that a configuration may name and must not run: it is no method."""

import os
from pathlib import Path

Path(os.environ["VIDKD_PLANTED"]).write_text("executed")
