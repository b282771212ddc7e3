"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def data_dir() -> Path:
    """The folder of downloaded archives and parsed caches: $MEMBERSCOPE_DATA, else ~/.cache/memberscope."""
    given = os.environ.get("MEMBERSCOPE_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "memberscope"
