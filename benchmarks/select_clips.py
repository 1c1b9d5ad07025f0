"""Choose the clips that ship: those of a labelled folder that the shipped recogniser hears.

    python benchmarks/select_clips.py FOLDER

writes src/audiopure/assets/clips anew. The choice is equal over labels and, as far as possible, over voices,
and does not depend on how surely a clip is heard, so that it flatters neither the recogniser nor a defence
beyond what "heard at all" does. The same folder and weights give the same clips.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer

import audiopure
from audiopure.attacks import predict
from audiopure.data import DATASETS, Clip, Dataset, collate
from audiopure.data.manifest import write_manifest
from audiopure.noise import SeededNoise

CLIPS = Path(audiopure.__file__).parent / "assets" / "clips"

NOTICE = """\
# Spoken digits

{count} synthetic clips, 16 kHz mono FLAC, in {voices} voices. They were synthesised with the text-to-speech
model Kokoro-82M (https://huggingface.co/hexgrad/Kokoro-82M, by hexgrad), which is licensed under Apache-2.0.
No person spoke them, and no weights of this package were trained on them.

They were chosen from {total} clips because the recogniser that ships with the package ("digits") hears them
({heard} of {total}); accuracies on them say nothing about how good that recogniser is.
`benchmarks/select_clips.py` repeats the choice. In `manifest.csv`, `speaker` is the name of the voice.
"""


def heard_clips(dataset: Dataset, recogniser: str) -> list[Clip]:
    """Clips whose label is the recogniser's answer."""
    model = audiopure.load_recogniser(recogniser)
    waveform, _ = collate(dataset.load_all())
    answers = torch.cat([predict(model, part, noise=SeededNoise(0))[:, 0] for part in waveform.split(64)])
    labels: tuple[str, ...] = model.labels  # type: ignore[assignment]
    return [c for c, answer in zip(dataset, answers.argmax(1), strict=True) if labels[int(answer)] == c.label]


def choose(clips: list[Clip], labels: tuple[str, ...], each: int) -> list[Clip]:
    """Up to `each` clips a label, taking the voice that was used least so far; ties by a hash of the name."""
    used: Counter[str] = Counter()
    chosen = []
    for label in labels:
        rest = [c for c in clips if c.label == label]
        for _ in range(min(each, len(rest))):
            best = min(rest, key=lambda c: (used[c.path.stem], hashlib.sha256(c.id.encode()).digest()))
            rest.remove(best)
            used[best.path.stem] += 1
            chosen.append(best)
    return chosen


def main(
    folder: Annotated[Path, typer.Argument(help="Labelled folder: LABEL/VOICE.flac.")],
    output: Annotated[Path, typer.Option(help="Folder that is written anew.")] = CLIPS,
    each: Annotated[int, typer.Option(help="Clips of each label, at most.")] = 10,
    recogniser: Annotated[
        str, typer.Option(help="Name or file of the recogniser that must hear them.")
    ] = "digits",
) -> None:
    dataset = DATASETS["folder"](folder)
    heard = heard_clips(dataset, recogniser)
    chosen = choose(heard, audiopure.load_recogniser(recogniser).labels, each)  # type: ignore[arg-type]
    shutil.rmtree(output, ignore_errors=True)
    shipped = []
    for clip in chosen:
        target = output / clip.id
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip.path, target)
        shipped.append(
            Clip(clip.id, target, clip.label, clip.path.stem, "test", clip.seconds, clip.sample_rate)
        )
    write_manifest(Dataset("clips", output, shipped))
    voices = len({clip.speaker for clip in shipped})
    facts = {"count": len(shipped), "voices": voices, "total": len(dataset), "heard": len(heard)}
    (output / "NOTICE.md").write_text(NOTICE.format(**facts))
    typer.echo(f"{len(heard)} of {len(dataset)} clips are heard; {len(shipped)} written to {output}")


if __name__ == "__main__":
    typer.run(main)
