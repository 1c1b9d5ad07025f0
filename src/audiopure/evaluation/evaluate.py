"""`audiopure.evaluate`: from a system and a folder of recordings to a report card, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError
from torch import nn

from audiopure import audio
from audiopure.atomic import whole, write_text
from audiopure.attacks.objective import call
from audiopure.defended import INNER, Defended
from audiopure.errors import InputError
from audiopure.evaluation import plan, running, workplace
from audiopure.evaluation.auditing import rows as audits
from audiopure.evaluation.card import Card, Example
from audiopure.evaluation.clips import item_of
from audiopure.evaluation.engine import SURROGATE, Evaluation, EvaluationConfig
from audiopure.evaluation.ledger import Ledger
from audiopure.evaluation.lineup import WHITE_BOX
from audiopure.evaluation.report.page import PURIFIED
from audiopure.evaluation.summary import card
from audiopure.noise import SeededNoise
from audiopure.systems import unchanged


def evaluate(
    system: str | nn.Module,
    data: str | Path | None = None,
    *,
    protocol: str = "quick",
    attacked: str | Path | None = None,
    output: str | Path | None = None,
    limit: int = 100,
    seed: int = 0,
    knowledge: str = WHITE_BOX,
    workers: int = 1,
    allow_broken_gradient: bool = False,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Card:
    """Attack a system and say how robust it is.

    Args:
        system: a specification, see `audiopure.systems`, or a model with `labels` and `sample_rate`.
        data: folder of labelled audio, its test split if it has one; None for the clips that ship.
        protocol: a name in `protocols.PROTOCOLS`, such as "quick" or "standard".
        attacked: folder of attacked versions of `data` that are scored as they are, in place of a protocol.
        output: folder for the report and all audio, where a run that was cut off goes on; None keeps nothing.
        limit: clips, equal over labels; 0 for all.
        knowledge: what the attacker knows of the noise, see `attacks.knowledge`.
        workers: processes; with a model instead of a specification only 1 works.
        allow_broken_gradient: go on although the gradient audit fails; it then stands on the card.
        progress: told in sentences what happens, and beforehand how long it takes, from timing a batch.

    Raises InputError for what cannot be used, and for a gradient that is broken without saying so.
    """
    config = EvaluationConfig.of(
        system=system if isinstance(system, str) else type(system).__name__,
        data=None if data is None else Path(data),
        protocol=protocol,
        attacked=None if attacked is None else Path(attacked),
        limit=limit,
        seed=seed,
        knowledge=knowledge,
        device=device,
    )
    if workers > 1 and not isinstance(system, str):
        raise InputError("several workers need a system by name, as each of them loads it anew")
    model = None if isinstance(system, str) else system
    threads = max(1, torch.get_num_threads() // workers)
    with TemporaryDirectory() as scratch, unchanged(model):
        folder = Path(scratch if output is None else output)
        work = Evaluation.prepare(config, folder, model=model, workers=workers, threads=threads)
        clips, say = work.clips.targets, progress or (lambda sentence: None)
        if progress is not None:
            with running.using_threads(threads):
                seconds = running.estimate(work)
            minutes = running.total(work, seconds, workers) / 60
            say(f"{len(clips)} clips, protocol {protocol}: about {max(minutes, 1):.0f} min of attacks")
        gradients = begin(work, allow_broken=allow_broken_gradient, progress=say)
        say("attacking")
        running.run(work, workers=workers, threads=threads)
        return conclude(work, gradients, keep=output is not None)


Watch = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]


@contextmanager
def unwatched(task: str, total: float) -> Iterator[Callable[[float], None]]:
    """A `Watch` that shows nothing: told what is done and how much, it gives what is told the progress."""
    yield lambda done: None


def begin(
    work: Evaluation, *, allow_broken: bool, progress: Callable[[str], None], watch: Watch = unwatched
) -> Mapping:
    """Make the folder, audit the gradients, train the surrogate if one is needed. Returns the audits."""
    work.begin()
    progress("auditing the gradients")
    gradients = audits.audited(work, allow_broken=allow_broken)
    if work.needs_surrogate and not (work.folder / SURROGATE).is_file():
        progress("training a surrogate on the system's answers")
        with watch("Training", 1.0) as advance:
            train(work, advance)
    return gradients


def train(work: Evaluation, progress: Callable[[float], None]) -> None:
    """Train the surrogate that transfer attacks use, and keep it in the folder."""
    from audiopure.training.surrogate import train_surrogate

    if work.attacker_clips is None:
        raise InputError("the data has no training clips for a surrogate")
    noise = SeededNoise(work.config.seed).fresh(item_of("surrogate"))
    train_surrogate(
        work.system.model,
        work.attacker_clips,
        noise=noise,
        path=work.folder / SURROGATE,
        report=lambda step: progress(1 / step.steps),
    )


def conclude(work: Evaluation, gradients: Mapping, *, keep: bool = True) -> Card:
    """The card, and in the folder the report with it."""
    result = running.finish(work, gradients)
    if keep:
        examples = [*result.examples, *_purified(work, result.examples)]
        result = result.model_copy(update={"examples": examples})
        write_report(result, work.folder)
    return result


def merge(folders: Sequence[Path], output: Path) -> Card:
    """One report from the folders of shards: outcomes of one plan, united by row, condition and clip.

    The result is an evaluation's folder like any other: what no shard has done, `evaluate` does there.

    Raises InputError if a folder holds no evaluation, if they do not belong to the same, or if `output` is
    one of them or holds something else.
    """
    first = workplace.unite(folders, output, plan.Plan, "evaluation")
    data = first.data.model_copy(update={"shard": None})
    united = first.model_copy(update={"data": data, "command": workplace.whole_command(first.command)})
    united = plan.begin(united, output)
    gradients = {row: found for folder in folders for row, found in audits.stored(folder).items()}
    audits.store(gradients, output)
    ledger = Ledger(output / "outcomes.jsonl")
    ledger.unite(Ledger(folder / "outcomes.jsonl") for folder in folders)
    result = card(united, gradients, ledger.read())
    examples = [*result.examples, *_purified_in(folders, result.examples)]
    result = result.model_copy(update={"examples": examples})
    for example in examples:
        source = next((f / example.audio for f in folders if (f / example.audio).is_file()), None)
        if source is not None:
            (output / example.audio).parent.mkdir(parents=True, exist_ok=True)
            with whole(output / example.audio) as partial:
                partial.write_bytes(source.read_bytes())
    write_report(result, output)
    return result


def _purified_in(folders: Sequence[Path], examples: Sequence[Example]) -> list[Example]:
    """The purified versions of examples that the shards' reports hold."""
    wanted = dict.fromkeys((example.clip, example.condition + PURIFIED) for example in examples)
    found: dict[tuple[str, str], Example] = {}
    for folder in folders:
        with suppress(OSError, ValidationError):  # a shard that was cut off has no report
            shard = Card.model_validate_json((folder / "report.json").read_bytes())
            found |= {(example.clip, example.condition): example for example in shard.examples}
    return [found[key] for key in wanted if key in found]


def write_report(result: Card, folder: Path) -> None:
    """`report.json`, `report.md` and `index.html`, each whole or not at all."""
    from audiopure.evaluation.report.markdown import markdown
    from audiopure.evaluation.report.page import render

    files = {
        "report.json": result.model_dump_json(by_alias=True, indent=1) + "\n",
        "report.md": markdown(result),
        "index.html": render(result, folder),
    }
    for name, text in files.items():
        write_text(folder / name, text)


def _purified(work: Evaluation, examples: Sequence[Example]) -> list[Example]:
    """What the recogniser gets to hear of each example, in one pass, and what it answers to that."""
    model = work.system.model
    if not isinstance(model, Defended):
        return []
    found = []
    for example in examples:
        if not (work.folder / example.audio).is_file():  # whoever kept the outcomes need not keep the audio
            continue
        waveform, _ = audio.read(work.folder / example.audio)
        noise = SeededNoise(work.config.seed).fresh(item_of(PURIFIED)).for_items([item_of(example.clip)])
        with torch.no_grad():
            clean = model.purify(waveform.to(work.config.device), noise=noise).cpu()
            length = max(clean.shape[-1], work.system.sample_rate)
            padded = torch.nn.functional.pad(clean, (0, length - clean.shape[-1])).to(work.config.device)
            samples = torch.tensor([clean.shape[-1]], device=padded.device)
            answer = int(call(model.model, padded, noise.fresh(INNER), samples).argmax(-1))
        condition = example.condition + PURIFIED
        place = Path("audio") / example.row / condition / Path(example.audio).name
        (work.folder / place).parent.mkdir(parents=True, exist_ok=True)
        audio.write(work.folder / place, clean, work.system.sample_rate)
        heard = work.plan.labels[answer]
        right = int(heard == example.label)
        update = {"condition": condition, "heard": heard, "right": right, "passes": 1, "audio": str(place)}
        found.append(example.model_copy(update=update))
    return found
