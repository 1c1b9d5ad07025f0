"""The defences of the paper's tables, and those set beside them."""

from __future__ import annotations

from audiopure.evaluation.reproduce.entries import STEEPER, Entry
from audiopure.evaluation.reproduce.published import CLASSIFIERS, DENOISERS, JACOBIAN, MAIN, QUALCOMM
from audiopure.hub import SHIPPED

COMPACT = (
    "our compact purifier of 1.3 M parameters. DiffWave (24 M, a million steps on several GPUs) could not be "
    "trained on a CPU (what a pass takes there: table G). Ours brings speech to a common "
    "level first, by a gain of .5 to 4: the noise of an n* is louder in loud clips than in quiet ones"
)
DIFFSPEC = (
    "a U-Net of width 32 with one block a level, 1,800 steps of 32 clips. The full size (width 128, three "
    "blocks, 52.5 M parameters, 80,000 steps of 230; `recipes/diffspec-paper.toml`) takes a large GPU. The "
    "paper's numbers are of a released attack that differentiates through this network, though not through "
    "DiffWave: they stand beside “as written”"
)
TASNET = (
    "a Conv-TasNet of two repeats of six blocks, 64 and 128 channels wide, for three of eight, 128 and 512, "
    "with 256 filters of 40 samples for 512 of 16: the full size takes a GPU"
)
OFFLINE = f"{TASNET}. Trained offline for 7 epochs of 30, on the logarithm of the squared error"
BPDA = "its gradient by BPDA: what has none is taken for the identity"
SHORTER = "by `quick`, as `standard` on 100 clips takes about 12.5 core hours"

NONE = Entry("none", "none", "digits", MAIN["none"], reference=True)
PURIFIED = Entry(
    "n3",
    "**AudioPure**, compact, n*=3",
    "small+digits",
    MAIN["n3"],
    COMPACT,
    beside="noise-only",
    reference=True,
)
ONE_SHOT = Entry("one-shot", "AudioPure, compact, one-shot", "small,sampler=one-shot+digits")
NOISE_ONLY = Entry("noise-only", "forward noise only, n*=3", "small,reverse=no+digits")
TRANSFORMATIONS = (
    Entry("average", "average smoothing (AS)", "average+digits", MAIN["average"]),
    Entry("median", "median smoothing (MS)", "median+digits", MAIN["median"]),
    Entry("downsample", "down-up sampling (DS)", "downsample+digits", MAIN["downsample"]),
    Entry("low-pass", "low-pass (LPF)", "low-pass+digits", MAIN["low-pass"]),
    Entry("band-pass", "band-pass (BPF)", "band-pass+digits", MAIN["band-pass"]),
    Entry("quantise", "quantisation (BPDA)", "quantise+digits", note=BPDA),
    Entry("white-noise", "white noise, 25 dB", "white-noise+digits"),
    Entry("masked-noise", "noise by the masking threshold (BPDA)", "masked-noise+digits", note=BPDA),
    Entry("mp3", "MP3 round trip (BPDA)", "mp3+digits", note=BPDA),
    Entry("opus", "Opus round trip (BPDA)", "opus+digits", note=BPDA),
    Entry("gate", "spectral gating", "gate+digits"),
)
ADVTR = Entry(
    "advtr",
    "adversarial training, L∞ (AdvTr)",
    "{digits-advtr}",
    MAIN["advtr"],
    "begun with the shipped recogniser, on clips with noise up to .04 as that one was; the released one "
    "begins anew and without",
)
ADVERSARIAL = (
    ADVTR,
    Entry("adversarial", "adversarial training, both norms", "{digits-adversarial}", reference=True),
    Entry("trades", "TRADES, both norms", "{digits-trades}"),
    Entry("fast", "fast adversarial training, both norms", "{digits-fast}"),
    Entry("free", "free adversarial training, both norms", "{digits-free}"),
    Entry("yopo", "YOPO, both norms", "{digits-yopo}"),
    Entry(
        "gaussian",
        "Gaussian augmentation, sigma .015 to 1",
        "{digits-noisy}",
        note="the network of the certificates; the shipped recogniser, “none”, learnt with noise up to .04",
    ),
    Entry(
        "composed",
        "AudioPure, compact, before adversarial training",
        "small+{digits-adversarial}",
        note=f"{SHORTER}, as is the row of the recogniser alone that it compares with",
        exact="quick",
        beside="adversarial",
    ),
)
SPECTRAL = (
    Entry(
        "diffspec",
        "DiffSpec, small",
        "{diffspec-digits}+digits",
        MAIN["diffspec"],
        f"{DIFFSPEC}. By `quick`, as `standard` takes about 65 core hours",
        "quick",
        differentiated=True,
    ),
    Entry(
        "dualpure",
        "DualPure, small",
        "small,reverse=no+{diffspec-digits},sampler=one-shot+digits",
        note="DiffSpec's network; by `quick`, as `standard` takes about 25 core hours",
        exact="quick",
    ),
)
TUNED = (
    Entry(
        "ssp",
        "SSP-tuned AudioPure, compact",
        "{purifier-small-ssp}+digits",
        DENOISERS["ssp"],
        f"the compact purifier, tuned; {SHORTER}",
        "quick",
    ),
    Entry(
        "ssp-adamw",
        "SSP-tuned AudioPure, compact, AdamW",
        "{purifier-small-ssp-adamw}+digits",
        note=f"the compact purifier, tuned; {SHORTER}",
        exact="quick",
    ),
    Entry(
        "joint",
        "AudioPure, compact, trained end to end",
        "{purifier-small-joint},sampler=one-shot+digits",
        note="by `quick`, as `standard` on 100 clips takes about 5.7 core hours",
        exact="quick",
    ),
)
OTHER_DENOISERS = (
    Entry(
        "defence-gan",
        "Defence-GAN, quarter width (BPDA)",
        "{wavegan-digits},restarts=4,steps=50+digits",
        DENOISERS["defence-gan"],
        "a WaveGAN a quarter as wide as the paper's (16 for 64), which takes a GPU, searched for 50 steps "
        "from 4 starts in place of 200 from 10; 1,600 updates of the generator, where 100 epochs of the "
        "whole of SC09 would be some 10,000. A pass is hundreds of the generator's, therefore `quick` and "
        "fewer clips; the search is taken for the identity in the gradient (BPDA)",
        "quick",
        {"paper": 20, "quick": 20},
    ),
    Entry(
        "tasnet-offline",
        "Conv-TasNet, small (CTN Baseline)",
        "{tasnet-offline}+digits",
        DENOISERS["tasnet-offline"],
        OFFLINE,
    ),
    Entry(
        "tasnet-joint",
        "Conv-TasNet, small (CTN Adv-Finetune-Joint-frozen)",
        "{tasnet-joint}+digits",
        DENOISERS["tasnet-joint"],
        f"{OFFLINE}; then with the recogniser behind it",
    ),
    Entry("enhancer", "speech enhancer (Conv-TasNet, small)", "{tasnet-enhancer}+digits", note=TASNET),
)
BELOW = "the paper's weight, which adds next to nothing to our recogniser's loss: its slopes are not as steep"
JACOBIANS = tuple(
    Entry(
        f"jacobian-{slope}",
        f"Jacobian regularisation, {slope}" if slope != "0" else "tuned as long, without a penalty",
        f"{{digits-jacobian-{slope}}}",
        JACOBIAN.get(slope),
        BELOW if slope in JACOBIAN else "",
    )
    for slope in (*JACOBIAN, *STEEPER)
)
QUICK = "by `quick`, as `standard` takes recognisers of this size days on a CPU"
SMALLER = (
    "the paper's depth at a smaller width, named so: at full width (some 35 M parameters; "
    f"`recipes/recogniser-{{}}.toml`) a training takes a GPU. {QUICK.capitalize()}"
)
# table 3: title, the paper's network, weights, why the row is not the paper's, clips
NETWORKS = (
    ("M5", "M5", "m5", "by `quick`, as the other networks of its table", 100),
    ("ResNeXt-29-8-4", "ResNeXt-29-8-64", "resnext29-8-4", SMALLER.format("resnext29"), 50),
    ("VGG-19-BN", "VGG-19-BN", "vgg19bn", QUICK, 50),
    ("WideResNet-28-2", "WideResNet-28-10", "wideresnet28-2", SMALLER.format("wideresnet28"), 50),
    ("DenseNet-BC-100-12", "DenseNet-BC-100-12", "densenetbc", QUICK, 50),
)


def _classifier(title: str, whose: str, key: str, note: str, count: int) -> tuple[Entry, Entry]:
    """The network alone and purified; the paper has PGD-70 of both, and `quick` gives what is exact."""
    without, purified = CLASSIFIERS[whose]
    system = key if key in SHIPPED else f"{{{key}}}"
    clips = {"paper": count, "quick": count}
    return (
        Entry(f"{key}-none", title, system, without, note, "quick", clips),
        Entry(f"{key}-n3", f"{title}, AudioPure, compact", f"small+{system}", purified, note, "quick", clips),
    )


WITHOUT_NOISE = "the compact recogniser trained without noise; by `quick`, as the networks beside it"
PLAIN = (
    Entry("plain-none", "compact, trained without noise", "{digits-plain}", None, WITHOUT_NOISE, "quick"),
    Entry(
        "plain-n3",
        "compact, trained without noise, AudioPure",
        "small+{digits-plain}",
        None,
        WITHOUT_NOISE,
        "quick",
    ),
)
OTHER_CLASSIFIERS = (*PLAIN, *(row for network in NETWORKS for row in _classifier(*network)))
WAKE = (
    "six wake words of up to 5 s (`wakewords`) in place of Qualcomm's four, which have to be asked for, and "
    "the compact recogniser, which averages over time, in place of the paper's recurrent one with attention"
)
FEWER = {"paper": 50, "quick": 50}
WAKEWORDS = (
    Entry(
        "wakewords-none",
        "wake words",
        "{wakewords}",
        QUALCOMM[0],
        WAKE,
        "quick",
        FEWER,
        other=("wakewords", 3.0),
    ),
    Entry(
        "wakewords-n2",
        "wake words, AudioPure, compact, n*=2",
        "small,n_star=2+{wakewords}",
        QUALCOMM[1],
        WAKE,
        "quick",
        FEWER,
        other=("wakewords", 3.0),
    ),
)
CONTROLS = (NONE, NOISE_ONLY, ONE_SHOT, PURIFIED)
ALL = (*CONTROLS, *TRANSFORMATIONS, *ADVERSARIAL, *SPECTRAL, *TUNED, *OTHER_DENOISERS, *JACOBIANS)
