"""Attacked clips on disk: they take longer to make than to train on, and a killed run must not lose them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


class Crafted:
    """Tensors by name in a folder, each in a file that is there whole or not at all.

    Args:
        folder: None to keep nothing.
        origin: what the tensors were made from; a file that was made from something else does not count.
    """

    def __init__(self, folder: Path | None, origin: str):
        self.folder, self.origin = folder, origin

    def get(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor that is kept under a name; made and kept if there is none."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        found = self._read(path)
        if found is None:
            found = make()
            self._write(path, found)
        return found

    def _read(self, path: Path) -> Tensor | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                known = (file.metadata() or {}).get("origin") == self.origin
                return file.get_tensor("clips") if known else None
        except SafetensorError:
            return None

    def _write(self, path: Path, clips: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may make the same
        partial.write_bytes(save({"clips": clips.contiguous()}, metadata={"origin": self.origin}))
        os.replace(partial, path)
