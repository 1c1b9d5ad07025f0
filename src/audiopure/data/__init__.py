"""Datasets of labelled audio behind one manifest interface."""
