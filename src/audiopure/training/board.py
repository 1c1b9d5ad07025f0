"""Curves for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audiopure.errors import MissingExtraError
from audiopure.training.loop import Progress


class Board:
    """Writes what the loop reports to `folder`; a resumed run overwrites what it repeats.

    Raises MissingExtraError without the package tensorboard.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("curves for TensorBoard need: pip install 'audiopure[train]'") from error
        self._make, self.folder, self._writer = SummaryWriter, folder, None

    def __call__(self, progress: Progress) -> None:
        if self._writer is None:
            self._writer: Any = self._make(str(self.folder), purge_step=progress.step)
        self._writer.add_scalar("loss", progress.loss, progress.step)
        for name, value in (progress.validation or {}).items():
            self._writer.add_scalar(f"validation/{name}", value, progress.step)
        if progress.validation is not None:
            self._writer.flush()
