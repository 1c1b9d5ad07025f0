"""Reading files in the released DiffWave's format: faithful, strict, and never running their code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffwave_reference import State, authors_state, noise, tiny_net, write_authors_checkpoint

from audiopure.errors import WeightsError
from audiopure.nets.diffwave_checkpoint import load_diffwave, read_authors_checkpoint


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip_through_a_file(prefix: str, bare: bool, zipped: bool, tmp_path: Path) -> None:
    net, path = tiny_net(), tmp_path / "1000000.pkl"
    state = {prefix + name: value for name, value in authors_state(net).items()}
    if bare:
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    else:
        write_authors_checkpoint(state, path, _use_new_zipfile_serialization=zipped)
    again = load_diffwave(path, dilation_cycle=3)
    assert again.config == net.config
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in net.parameters()]
    for (name, value), fused in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(fused, value, rtol=1e-6, atol=0, msg=name)
    x = noise(2, 60)
    torch.testing.assert_close(again(x, 2), net(x, 2), rtol=1e-5, atol=1e-5)


def test_dilation_cycle_must_fit(tmp_path: Path) -> None:
    path = write_authors_checkpoint(authors_state(tiny_net()), tmp_path / "a.pkl")
    with pytest.raises(WeightsError, match=r"6 layers.*cycles of 12"):
        load_diffwave(path)
    assert load_diffwave(path, dilation_cycle=6).receptive_field == 63


class Payload:
    """Pickles into a call that creates `marker`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_payload_works_where_code_is_executed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_malicious_file_is_refused_unexecuted(form: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pkl", tmp_path / "marker"
    content = {"model_state_dict": authors_state(tiny_net()), "optimizer_state_dict": Payload(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"evil\.pkl.*running code from it, which is refused"):
        read_authors_checkpoint(path)
    assert not marker.exists()


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_net(), tmp_path / "module.pkl")
    with pytest.raises(WeightsError, match="refused"):
        read_authors_checkpoint(tmp_path / "module.pkl")


BLOCK = "residual_layer.residual_blocks"


def drop(name: str) -> Callable[[State], object]:
    return lambda state: state.pop(name)


def put(name: str, value: Any) -> Callable[[State], object]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(f"{BLOCK}.3.fc_t.bias"), rf"{BLOCK}\.3\.fc_t\.bias missing"),
        (drop(f"{BLOCK}.5.res_conv.weight_g"), r"5\.res_conv\.weight_g missing"),
        (drop("init_conv.0.conv.weight_v"), r"no usable init_conv\.0\.conv\.weight_v"),
        (put(f"{BLOCK}.0.mel_conv.weight", torch.zeros(1)), r"0\.mel_conv\.weight unexpected"),
        (put(f"{BLOCK}.7.fc_t.bias", torch.zeros(6)), r"6\.fc_t\.weight.*and \d+ more missing; .*unexpected"),
        (put("final_conv.2.conv.bias", torch.zeros(2)), r"bias \(2,\) instead of \(1,\) of a wrong shape"),
        (put(f"{BLOCK}.1.skip_conv.weight_g", torch.zeros(5)), r"\(5,\) instead of \(5, 1, 1\)"),
        (put("residual_layer.fc_t1.weight", torch.zeros(7)), r"no usable residual_layer\.fc_t1\.weight"),
        (put(f"{BLOCK}.1.skip_conv.weight_v", torch.zeros(5, 6, 1)), r"blocks\.1\.skip\.weight.*not finite"),
        (put("final_conv.2.conv.bias", torch.tensor([float("nan")])), r"output\.bias.*not finite"),
        (put("final_conv.2.conv.bias", torch.tensor([1])), "not a dense tensor of floating-point numbers"),
        (put("final_conv.2.conv.bias", torch.zeros(1).to_sparse()), "not a dense tensor"),
        (put("final_conv.2.conv.bias", "text"), "not a dense tensor"),
    ],
)
def test_wrong_entries_are_named(change: Callable[[State], object], message: str, tmp_path: Path) -> None:
    state = authors_state(tiny_net())
    change(state)
    torch.save({"model_state_dict": state}, tmp_path / "wrong.pkl")
    with pytest.raises(WeightsError, match=rf"wrong\.pkl.*{message}") as caught:
        load_diffwave(tmp_path / "wrong.pkl", dilation_cycle=3)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_embedding_that_no_network_has_is_refused(tmp_path: Path) -> None:
    state = authors_state(tiny_net())
    state["residual_layer.fc_t1.weight"] = torch.zeros(7, 5)
    torch.save(state, tmp_path / "odd.pkl")
    with pytest.raises(WeightsError, match=r"odd\.pkl.*even embed_features"):
        load_diffwave(tmp_path / "odd.pkl", dilation_cycle=3)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.99])
def test_truncated_file(part: float, zipped: bool, tmp_path: Path) -> None:
    path = write_authors_checkpoint(
        authors_state(tiny_net()), tmp_path / "cut.pkl", _use_new_zipfile_serialization=zipped
    )
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"cut\.pkl"):
        read_authors_checkpoint(path)


@pytest.mark.parametrize("content", [3, [], {}, {"model_state_dict": 3}, {0: torch.zeros(1)}, torch.zeros(3)])
def test_other_content_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pkl")
    with pytest.raises(WeightsError, match=r"other\.pkl holds no state dict"):
        read_authors_checkpoint(tmp_path / "other.pkl")


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_text("hello, world\n")
    (tmp_path / "random.pkl").write_bytes(np.random.default_rng(0).bytes(5000))
    for name in ("text.pkl", "random.pkl", "."):
        with pytest.raises(WeightsError, match="damaged"):
            read_authors_checkpoint(tmp_path / name)
    with pytest.raises(WeightsError, match=r"absent\.pkl: no such file"):
        read_authors_checkpoint(tmp_path / "absent.pkl")
