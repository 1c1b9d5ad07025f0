"""Which code it was, between two releases."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def source() -> str:
    """The first digits of a hash of audiopure's own modules."""
    root = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]
