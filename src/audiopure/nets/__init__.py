"""Networks, one self-contained file for each architecture."""
