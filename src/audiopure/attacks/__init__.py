"""Attacks, one file each, behind one interface."""
