"""Studies of purifiers apart from attacks: denoising, harm, choices by measurement."""
