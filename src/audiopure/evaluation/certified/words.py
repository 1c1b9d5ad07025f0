"""What reports say of certificates, for all their formats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from audiopure.certification.representations import WAVEFORM
from audiopure.certification.scores import CHOICES
from audiopure.evaluation.card import Proportion
from audiopure.evaluation.certified.record import Certificates, ClipCertificate, round_step
from audiopure.evaluation.report.words import percent

PAPER_RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of the paper's table 5
COLUMNS = 7
MEANINGS = {  # of `Explained`, as columns
    "snr": "SNR, dB",
    "rms": "RMS, dB",
    "inaudible": "over all masked, dB",
    "noticeable": "over the least heard, dB",
    "heard": "heard, %",
}


def radii(record: Certificates) -> list[float]:
    """For a table: the paper's where some clip reaches its second, else round ones up to the largest."""
    top = max((c.radius for c in record.clips if c.right and math.isfinite(c.radius)), default=0.0)
    if record.norm == "L2" and record.object.startswith("waveform") and top >= PAPER_RADII[1]:
        return [radius for radius in PAPER_RADII if radius <= top or radius == 0] or [0.0]
    return round_radii(top)


def round_radii(top: float) -> list[float]:
    """0 and up to six multiples of 1, 2 or 5 times a power of ten, none above `top`."""
    if top <= 0:
        return [0.0]
    step = round_step(top / (COLUMNS - 1))
    return [round(step * k, 12) for k in range(COLUMNS) if step * k <= top * (1 + 1e-9)]


def verdict(record: Certificates) -> list[str]:
    """The most important first."""
    right = [clip for clip in record.clips if clip.right]
    found = [
        f"{percent(record.certified(0.0))} of {len(record.clips)} clips are right for certain, each with "
        f"confidence {100 * record.confidence:g} %; {percent(record.abstained)} abstain."
    ]
    if right:
        middle = median([clip.radius for clip in right])
        found.append(
            f"Half of these withstand every change of the {record.object.split()[0]} below {middle:.3g} in "
            f"{record.norm} ({record.unit}). Mean radius, of other clips 0: {record.mean_radius:.3g}."
        )
    # of a waveform certified in another norm, or of a spectrogram
    name = "L2" if record.object.startswith("waveform") else WAVEFORM
    known = [clip.implied[name] for clip in right if name in clip.implied]
    if known:
        found.append(f"For the waveform that means {median(known):.3g} in L2 (full scale) at the median.")
    explained = [clip.explained for clip in right if clip.explained is not None]
    if explained:
        snr = median([e.snr for e in explained])
        found.append(
            f"Such a change is {snr:.0f} dB weaker than the clip at the median: "
            + (
                "louder changes are not covered, weaker ones are, whatever their shape."
                if record.norm == "L2"
                else "every weaker one is covered, and of some shapes louder ones."
            )
        )
        heard = [e.heard for e in explained if e.heard is not None]
        inaudible = [e.inaudible for e in explained if e.inaudible is not None]
        if heard and inaudible:
            all_covered = sum(value >= 0 for value in inaudible)
            found.append(
                f"Spread evenly it would be heard in {100 * median(heard):.0f} % of the time and frequency "
                f"of a clip. For {all_covered} of {len(inaudible)} clips everything that the clip masks is "
                f"covered; at the median the loudest masked change is at most {-median(inaudible):.0f} dB "
                "beyond the radius."
            )
    return found


def notes(record: Certificates) -> list[str]:
    s = record.settings
    how = {
        "cohen": "most votes decide, Cohen et al.",
        "pair": "most votes decide, bounds of every label",
        "kl": "the mean probability decides, KL",
        "renyi": "the mean probability decides, Rényi",
        "hockey-stick": "the mean probability decides, hockey stick",
        "embedding": "the mean embedding decides",
        "claim": f"claim to be {s.get('claim')}, accepted from a mean cosine of {s.get('threshold')} on",
    }
    selected = f"{s['n0']} draws select, "
    if s["certificate"] in CHOICES:
        selected += "as many choose the bound, "
    if s["certificate"] == "claim":
        selected = ""
    noise = f"{s['noise']} ({s['shape']} Hz:dB)" if s.get("shape") else s["noise"]
    found = [
        f"Certified: the {record.object}, {record.norm}, in {record.unit}. Noise: {noise}, sigma "
        f"{s['sigma']:g}; {selected}at most {s['n']:,} estimate; "
        f"{how[s['certificate']]}, "
        f"alpha {s['alpha']:g} for each clip.",
        f"{record.draws:,} draws, {record.seconds:,.0f} s of work.",
    ]
    if s["precision"] == "bf16":
        found.append("The base classifier runs in bfloat16: what is certified is that.")
    if s["denoise"] == "multi-step":
        found.append(
            "The chains of multi-step run at the clip's own level, without the purifier's level policy."
        )
    if s["before"]:
        found.append(
            f"Before the noise: {s['before']}, which brings no two clips further apart. Radii, decibels and "
            "examples are of the clip after it."
        )
    if record.data.note is not None:
        found.append(record.data.note)
    return found


def share(value: Proportion) -> str:
    """As in "84.0"."""
    return f"{100 * value.value:.1f}"


def median(values: Sequence[float]) -> float:
    """The middle value, the lower of two."""
    return sorted(values)[(len(values) - 1) // 2]


def worst_first(clips: Sequence[ClipCertificate]) -> list[ClipCertificate]:
    """Wrong for certain, then abstaining, then by radius."""
    return sorted(clips, key=lambda c: (c.right, c.answer is None, c.radius))


def octaves(record: Certificates) -> list[int]:
    """Centres in Hz of the octaves in which radii are explained, none where they are not."""
    return next((list(c.explained.octaves) for c in record.clips if c.explained is not None), [])


def norms(record: Certificates) -> list[str]:
    """Names of the radii that follow from the certified ones."""
    return sorted({name for clip in record.clips for name in clip.implied})


def meanings(record: Certificates) -> list[str]:
    """Heads of what `meaning_cells` has."""
    return [*MEANINGS.values(), *(f"{hz} Hz, dB" for hz in octaves(record))] if octaves(record) else []


def meaning_cells(record: Certificates, clip: ClipCertificate) -> list[str]:
    """A radius in other words, as rounded numbers; empty where there are none."""
    if clip.explained is None:
        return [""] * len(meanings(record))
    values = [getattr(clip.explained, name) for name in MEANINGS]
    values[-1] = None if values[-1] is None else 100 * values[-1]
    values += clip.explained.octaves.values()
    return ["" if value is None else f"{value:.0f}" for value in values]
