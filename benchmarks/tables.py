"""Records as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiopure import hub
from audiopure.evaluation.demo import table as demo_table
from audiopure.evaluation.demo.results import DemoResults
from audiopure.evaluation.reproduce.reading import table
from audiopure.evaluation.reproduce.trained import core_seconds

Record = dict[str, Any]


def percent(share: Mapping[str, float], key: str = "value") -> str:
    return f"{100 * share[key]:.1f} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"


def demo(record: Record) -> str:
    results = DemoResults.model_validate(record)
    cost = f"{results.seconds:.0f} s on {results.threads} threads: `{results.command}`."
    return f"{demo_table.markdown(results).strip()} {cost}"


def denoising_sc09(record: Record) -> str:
    rows = [row for row in record["rows"] if row["set"] == "sc09"]
    names = {"noisy": "noisy", "wiener": "Wiener", "noisereduce": "noisereduce", "purifier": "**audiopure**"}
    body = [[title, *(f"{row['mean'][name]:.1f}" for row in rows)] for name, title in names.items()]
    margins = ["margin over the better one"]
    for row in rows:
        margins.append(
            f"{row['mean']['purifier'] - max(row['mean']['wiener'], row['mean']['noisereduce']):+.1f}"
        )
    summary = record["summary"]["mean_margin_over_wiener"]
    lost = record["summary"]["lost_by_mean"]
    where = ", ".join(f"{name} at {sigma}" for name, sigma in lost) if lost else "nowhere"
    text = (
        f"`sc09` test, {rows[0]['clips']} clips, mean SI-SDR. "
        "Mean margin over the Wiener filter on each test set: "
        + ", ".join(f"{name} {value:+.2f} dB" for name, value in summary.items())
        + f". A baseline is better: {where}."
    )
    return table(["sigma", *(str(row["sigma"]) for row in rows)], [*body, margins]) + "\n\n" + text


def denoising_all(record: Record) -> str:
    body = []
    for row in record["rows"]:
        scores = [f"{row['mean'][n]:.2f}" for n in ("noisy", "wiener", "noisereduce", "purifier")]
        margins = [
            f"{row[f'margin_{n}']:+.2f} ± {row[f'margin_{n}_se']:.2f}" for n in ("wiener", "noisereduce")
        ]
        better = f"{row['clips_better_than_wiener']}/{row['clips']}"
        body.append([row["set"], row["sigma"], *scores, *margins, better])
    head = ["set", "sigma", "noisy", "Wiener", "noisereduce", "audiopure", "over Wiener", "over noisereduce"]
    return table([*head, "clips better than Wiener"], body)


def harm(record: Record) -> str:
    body = []
    for sound, values in record["harm"].items():
        if not isinstance(values, dict) or "purified" not in values:
            continue
        for treatment in ("noise only", "wiener", "purified"):
            cell = values[treatment]
            numbers = [
                f"{cell[k]:.1f}" if k in cell else "" for k in ("si_sdr", "level_change_db", "silence_dbfs")
            ]
            body.append([f"{sound} ({values['clips']})", treatment, *numbers])
    head = ["sound (clips)", "treatment", "SI-SDR, dB", "level change, dB", "level where it was silent, dBFS"]
    return table(head, body)


def gradients(record: Record) -> str:
    body = []
    for row in record["rows"]:
        cells = [f"{row[p]['relative_error']:.1e} / {row[p]['cosine']:.4f}" for p in ("float64", "float32")]
        body.append([row["strategy"], row["sampler"], row["n_star"], *cells])
    head = [
        "gradient",
        "sampler",
        "n*",
        "float64: relative error / cosine",
        "float32: relative error / cosine",
    ]
    return table(head, body)


def recognisers(record: Record) -> str:
    body = []
    for row in record["rows"]:
        cells = [percent(row[c], "accuracy") for c in ("clean", "noisy", "purified")]
        body.append(
            [f"{row['recogniser']} ({row['parameters']:,} parameters)", row["set"], row["clips"], *cells]
        )
    head = [
        "recogniser",
        "test set",
        "clips",
        "clean, %",
        f"noise {record['sigma']:g}, %",
        "purified, n*=3, %",
    ]
    return table(head, body)


def training(_: object) -> str:
    """How the weights that ship were trained, as their cards tell."""
    body = []
    for name, file in hub.SHIPPED.items():
        card = hub.describe(name)["card"]
        config = card["config"]
        counts = [f"{n:,}" for n in (card["parameters"], config["steps"], card["validation"]["step"])]
        clips = f"{config['batch']} of {config['seconds']:g} s"
        hours = (core_seconds(card.get("cost"), name) or 0.0) / 3600
        body.append([f"`{name}`", f"`{Path(file).stem}.toml`", *counts, clips, f"{hours:.1f}"])
    heads = [
        "weights",
        "recipe",
        "parameters",
        "steps",
        "best validation, at step",
        "clips a step",
        "core hours",
    ]
    return table(heads, body) + "\n\nThe weights of the best validation are kept."


def samplers(record: Record) -> str:
    body: dict[str, list[str]] = {}
    steps: list[str] = []
    for key, row in record["rows"].items():
        kind, *rest = key.split("/")
        if kind == "sampler":
            name, n_star = "/".join(rest[:-1]), rest[-1]
            steps += [n_star] if n_star not in steps else []
            body.setdefault(name, []).append(f"{row['accuracy']:.1f} / {row['si_sdr_mean']:.1f}")
    head = ["accuracy, % / SI-SDR, dB", *(f"n*={n}" for n in steps)]
    clips = record["settings"]["clips"]
    return table(head, [[name, *cells] for name, cells in body.items()]) + f"\n\n`sc09` test, {clips} clips."


def steps(record: Record) -> str:
    body = []
    for key, row in record["rows"].items():
        if key.startswith("steps/"):
            cells = [counted(row[name]) for name in ("noise only", "purified")]
            body.append([f"{row['n_star']} (sigma {abs(row['sigma']):g})", *cells])
    return table(["n*", "noise only, clean accuracy, %", "purified, clean accuracy, %"], body)


def levels(record: Record) -> str:
    rows = record["rows"]
    body = []
    for key, row in rows.items():
        if key.startswith("level/"):
            parts = [counted(row[part]) for part in ("all", "quietest tenth", "loudest tenth")]
            attacked = []
            for norm in ("linf", "l2"):
                hit = rows.get(f"attacked/{row['level']}/{norm}")
                attacked.append(f"{hit['mean_accuracy']:.1f} [{hit['worst']['accuracy']:.0f}]" if hit else "")
            body.append([row["level"], *parts, f"{row['all']['si_sdr_mean']:.1f}", *attacked])
    head = ["level: target, gains", "clean, all, %", "quietest tenth, %", "loudest tenth, %", "SI-SDR, dB"]
    settings = record["settings"]
    text = (
        f"Clean: all `sc09` test clips, purified at n\\*=3. Attacked: {settings['attack_clips']} clips, PGD-"
        f"{settings['attack_steps']}, EOT {settings['eot']}, momentum; mean over 8 fresh passes "
        "[right in all of them]."
    )
    return table([*head, "L-inf 0.002, %", "L2 0.253, %"], body) + "\n\n" + text


def counted(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.1f} [{low:.0f}, {high:.0f}]"


def speed(record: Record) -> str:
    facts = record["machine"]
    numbers = sorted({row["n_star"] for row in record["compact"] if row["n_star"]})
    body = []
    for precision in ("fp32", "bf16"):
        for batch in (1, 16):
            rows = {
                row["n_star"]: f"{row['real_time_factor']:.0f} ({row['threads']})"
                for row in record["compact"]
                if (row["precision"], row["batch"]) == (precision, batch)
            }
            body.append([f"{precision}, batch {batch}", *(rows[n] for n in numbers)])
    text = (
        f"{facts['device']}, PyTorch {facts['torch']}; best of several rounds, in brackets the number of "
        f"threads (1 or {facts['threads']}) that was faster."
    )
    head = ["seconds of audio purified a second", *(f"n*={n}" for n in numbers)]
    for row in record["diffwave"]:
        text += (
            f" DiffWave (24 M parameters), n*={row['n_star']}: {row['seconds']:.1f} s for a second of audio."
        )
    goals, got = record["targets"], record["measured"]
    text += (
        " Target for n*=3, batch 1: "
        + f"{goals['real_time_factor']:.0f}; measured "
        + ", ".join(f"{precision} {values['real_time_factor']:.0f}" for precision, values in got.items())
    )
    return table(head, body) + "\n\n" + text + "."


def memory(record: Record) -> str:
    body = [
        [
            f"{row['precision']}, n*={row['n_star']}, {row['gradient']}",
            row["mebibytes"],
            row["seconds"],
            row["gradient_over_forward"],
        ]
        for row in record["gradient"]
    ]
    goals = record["targets"]
    text = (
        "16 clips of one second. Targets for the recomputed gradient at n*=10: "
        f"{goals['memory_ratio']:g} times the memory of n*=1 and {goals['gradient_over_forward']:g} times a "
        "forward pass; measured "
    ) + ", ".join(
        f"{precision} {values['memory_ratio']:g} and {values['gradient_over_forward']:g}"
        for precision, values in record["measured"].items()
    )
    head = ["one exact gradient", "peak memory, MiB", "seconds", "time over a forward pass"]
    return table(head, body) + "\n\n" + text + "."


def other_model(record: Record) -> str:
    budgets = list(next(iter(record["rows"].values())))
    body = [[name, *(percent(row[b]) for b in budgets)] for name, row in record["rows"].items()]
    text = (
        f"`{record['model']}`, {record['clips']} `sc09` test clips, mean over {record['passes']} passes; "
        f"{record['attacks'][0].partition(', restarts')[0]}), and the same in L2."
    )
    return table(["accuracy, %", *budgets], body) + "\n\n" + text


def attack_speed(record: Record) -> str:
    facts, settings, used = record["machine"], record["settings"], str(record["settings"]["used"])
    body = []
    for row in record["rows"]:
        batched = (f"{row['gradients'][str(n)]:.0f}" for n in settings["rows"])
        faster = row["gradients"][used] / row["naive_gradients"]
        steps = f"{row['steps']:.1f} / {row['naive_steps']:.1f}"
        title = f"{row['system']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        share = f"{100 * row['share']:.0f} %"
        body.append([title, f"{row['naive_gradients']:.0f}", *batched, f"{faster:.2f}", steps, share])
    head = ["exact gradients a second", "naive loop", *(f"{n} rows" for n in settings["rows"])]
    head += [f"{used} rows over naive", "PGD steps a second / naive", "of the machine's arithmetic"]
    peak = " and ".join(f"{value:.0f}" for value in record["peak_gflops"].values())
    exact, single = (max(v[p] for v in record["agreement"].values()) for p in ("float64", "float32"))
    work = ", ".join(f"{name} {value:.2f}" for name, value in record["gflop"].items())
    text = (
        f"{facts['device']}, PyTorch {facts['torch']}, {settings['clips']} clips of one second; best of "
        f"several rounds. Rows are clips times draws "
        "that go through the model at once; an evaluation on a "
        f"CPU uses {used}. The naive loop takes clip by clip and draw by draw; gradients differ by at most "
        f"{exact:.0e} of their length in float64, {single:.0e} as timed. A step updates one clip, EOT "
        f"{settings['draws']}. Arithmetic: operations of matrix products and convolutions in a gradient "
        f"({work} GFLOP; FFTs and all that is elementwise are not counted) over those of a large float32 "
        f"matrix product in the same time ({peak} GFLOP/s with 1 and 2 threads), for bf16 too."
    )
    others = ["", "two processes of 1 thread, gradients a second", "one process of 2 threads"]
    others += [f"{settings['restarts']} restarts of one clip side by side, steps a second", "in turn"]
    others += ["time with denormals over without"]
    rest = [
        [name, *(f"{value:.3g}" for value in values.values())] for name, values in record["together"].items()
    ]
    return "\n\n".join([table(head, body), text, table(others, rest)])


def certify_speed(record: Record) -> str:
    speeds = record["draws_a_second"]
    body = []
    for name in ("compact", "DiffWave"):
        plain = speeds[f"{name}, plain loop"]
        cells = [f"{plain:.3g}"]
        for precision in ("fp32", "bf16"):
            value = speeds[f"{name}, {precision}"]
            cells.append(f"{value:.3g} ({value / plain:.1f} times)")
        body.append([name, *cells])
    machine = record["machine"]
    where = f"{machine['device']}, PyTorch {machine['torch']}, {machine['threads']} threads"
    note = (
        f"{where}; one second of audio, one-shot at sigma {record['sigma']:g} before the compact recogniser. "
        "DiffWave is untrained; on a CPU no batch of it fits the caches: its batches are the plain loop's."
    )
    return table(["draws a second", "plain loop", "fp32", "bf16"], body) + f"\n\n{note}"
