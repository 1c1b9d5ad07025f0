"""`audiopure info`: what is installed, on what it runs, and which weights ship."""

from __future__ import annotations

import json
import platform
import time
from typing import Annotated, Any

import typer

from audiopure import __version__
from audiopure.cli.device import prepare
from audiopure.machine import processor


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Versions, devices, bf16 support, and the weights that ship, with their cards."""
    facts = collect()
    typer.echo(json.dumps(facts, indent=2) if as_json else _text(facts))


def collect() -> dict[str, Any]:
    """Everything that `audiopure info` says, JSON-able.

    `bf16.speed_up` is the measured time of a large matrix product in float32 over that in bfloat16.
    """
    import torch

    from audiopure import hub

    prepare("cpu")
    devices = [{"name": "cpu", "what": processor(), "threads": torch.get_num_threads(), "bf16": _bf16("cpu")}]
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}"
        devices.append({"name": name, "what": torch.cuda.get_device_name(index), "bf16": _bf16(name)})
    return {
        "audiopure": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": devices,
        "weights": [_weights(name) for name in hub.SHIPPED],
    }


def _bf16(device: str) -> dict[str, Any]:
    import torch

    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(768, 768, dtype=dtype, device=device)
        (matrix @ matrix).sum().item()  # the first product pays for what later ones reuse
        runs = []
        for _ in range(5):
            began = time.perf_counter()
            (matrix @ matrix)[0, 0].item()
            runs.append(time.perf_counter() - began)
        times[dtype] = min(runs)
    ratio = times[torch.float32] / times[torch.bfloat16]
    return {"speed_up": round(ratio, 2), "worth_it": ratio > 1.1}


def _weights(name: str) -> dict[str, Any]:
    from audiopure import hub
    from audiopure.errors import WeightsError

    try:
        facts = hub.describe(name)
    except WeightsError as error:
        return {"name": name, "missing": str(error)}
    parameters = sum(parameter.numel() for parameter in hub.load(name).parameters())
    return {"name": name, **facts, "path": str(facts["path"]), "parameters": parameters}


def _text(facts: dict[str, Any]) -> str:
    lines = [
        f"audiopure {facts['audiopure']}, torch {facts['torch']}, Python {facts['python']}",
        facts["system"],
        "",
        "Devices",
    ]
    for device in facts["devices"]:
        threads = f", {device['threads']} threads" if "threads" in device else ""
        ratio = device["bf16"]["speed_up"]
        verdict = "" if device["bf16"]["worth_it"] else ": no gain"
        lines.append(f"  {device['name']}: {device['what']}{threads}")
        lines.append(f"    bf16 matrix products at {ratio:g} times the speed of fp32{verdict}")
    lines += ["", "Weights"]
    for weights in facts["weights"]:
        lines += _card(weights)
    return "\n".join(lines)


def _card(weights: dict[str, Any]) -> list[str]:
    if "missing" in weights:
        return [f"  {weights['name']}: not installed"]
    lines = [
        f"  {weights['name']}: {weights['kind']}, {weights['architecture']}, "
        f"{weights['parameters']:,} parameters, {weights['bytes'] / 1e6:.1f} MB"
    ]
    return lines + [
        f"    {key}: {_brief(value)}" for key, value in weights["card"].items() if key != "config"
    ]


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
