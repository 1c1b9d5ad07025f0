"""Figures of AudioPure's paper (Wu et al., ICLR 2023), in %: accuracy unless a table says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

Column = tuple[str, int]  # norm, PGD steps
STEPS = (10, 20, 30, 50, 70, 100)


class Published:
    """A row: clean accuracy, robust accuracy by norm and steps, and FAKEBOB's."""

    def __init__(
        self, clean: float, linf: Mapping[int, float], l2: Mapping[int, float], fakebob: float | None = None
    ):
        self.clean, self.fakebob = clean, fakebob
        self.robust: dict[Column, float] = {("linf", k): v for k, v in linf.items()}
        self.robust |= {("l2", k): v for k, v in l2.items()}


def _row(
    clean: float,
    linf: tuple[float, ...],
    l2: tuple[float | None, ...],
    fakebob: float | None,
) -> Published:
    found = {k: value for k, value in zip(STEPS, l2, strict=True) if value is not None}
    return Published(clean, dict(zip(STEPS, linf, strict=True)), found, fakebob)


def _linf(clean: float, **steps: float) -> Published:
    return Published(clean, {int(name[1:]): value for name, value in steps.items()}, {})


# tables 1 and 4
MAIN: Mapping[str, Published] = {
    "none": _row(100, (3, 1, 1, 1, 1, 1), (2, 0, 0, 0, 0, 0), 21),
    "average": _row(100, (4, 2, 1, 1, 1, 1), (1, 0, 0, 0, 0, 0), 24),
    "median": _row(100, (6, 3, 2, 1, 1, 1), (4, 1, 0, 0, 0, 0), 21),
    "downsample": _row(99, (2, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0), 16),
    "low-pass": _row(100, (5, 2, 1, 1, 1, 1), (2, 0, 0, 0, 0, 0), 20),
    "band-pass": _row(99, (5, 1, 1, 1, 1, 1), (1, 1, 0, 0, 0, 0), 18),
    "advtr": _row(100, (86, 79, 78, 74, 72, 71), (73, 70, 68, 65, 65, 65), 92),
    "n3": _row(97, (89, 89, 89, 85, 84, 84), (89, 86, 83, 85, 84, 84), 86),
    "diffspec": _row(99, (92, 84, 78, 75, 72, 71), (74, 62, 58, 54, None, 49), None),
}
# table 2: eps -> robust accuracy for n* = 0, 1, 2, 3, 5, 7, 10, by PGD-10
ACCURACY_BY_BUDGET: Mapping[float, tuple[float, ...]] = {
    0.002: (3, 94, 90, 89, 84, 77, 67),
    0.004: (0, 76, 89, 86, 83, 74, 66),
    0.008: (0, 27, 70, 85, 84, 74, 68),
    0.016: (0, 0, 21, 53, 69, 57, 63),
}
BUDGET_STEPS = (0, 1, 2, 3, 5, 7, 10)
# table 3: classifier -> (without, with AudioPure), by PGD-70
CLASSIFIERS: Mapping[str, tuple[Published, Published]] = {
    "ResNeXt-29-8-64": (_linf(100, k70=1), _linf(97, k70=84)),
    "VGG-19-BN": (_linf(100, k70=2), _linf(99, k70=81)),
    "WideResNet-28-10": (_linf(100, k70=1), _linf(99, k70=85)),
    "DenseNet-BC-100-12": (_linf(100, k70=5), _linf(96, k70=79)),
    "M5": (_linf(94, k70=12), _linf(94, k70=70)),
}
# table 5: (method, sigma) -> certified accuracy at RADII
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CERTIFIED: Mapping[tuple[str, float], tuple[float, ...]] = {
    ("vanilla", 0.5): (30, 21, 12, 6, 4, 3, 3),
    ("vanilla", 1.0): (8, 8, 8, 7, 4, 3, 3),
    ("gaussian", 0.5): (49, 39, 33, 23, 14, 6, 3),
    ("gaussian", 1.0): (18, 15, 11, 10, 5, 5, 4),
    ("one-shot", 0.5): (45, 40, 35, 27, 21, 17, 13),
    ("one-shot", 1.0): (27, 22, 16, 15, 12, 11, 8),
}
# tables C, D and E, by PGD-10 and PGD-70
DENOISERS: Mapping[str, Published] = {
    "ssp": _linf(97, k10=89, k70=82),
    "defence-gan": _linf(8, k10=0, k70=0),
    "tasnet-offline": _linf(98, k10=13, k70=1),
    "tasnet-joint": _linf(90, k10=52, k70=41),
}
JACOBIAN: Mapping[str, Published] = {
    "1e-8": _linf(45, k10=9, k70=5),
    "1e-9": _linf(84, k10=27, k70=15),
    "1e-10": _linf(91, k10=31, k70=18),
    "1e-11": _linf(96, k10=19, k70=4),
}
# table F: eps -> robust accuracy at n* = 5
LARGE: Mapping[float, float] = {0.01: 82, 0.02: 67, 0.03: 42, 0.04: 14, 0.05: 0}
# table G: n* -> seconds a clip on an RTX 3090
SECONDS: Mapping[int, float] = {0: 0.0967, 1: 0.5522, 2: 0.7876, 3: 1.0162, 5: 1.4795, 7: 2.0125, 10: 2.6839}
# table A: n* of the stolen system -> stealing accuracy, then clean and robust of the vanilla and the defended
STOLEN: Mapping[int, tuple[float, ...]] = {1: (100, 100, 22, 100, 99), 5: (98, 100, 58, 96, 94)}
# table B: clean and robust by PGD-10, without and with AudioPure at n* = 2
QUALCOMM = (_linf(100, k10=0), _linf(91, k10=61))
