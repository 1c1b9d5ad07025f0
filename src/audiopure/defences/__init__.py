"""Defences of the literature that purification is compared with."""
