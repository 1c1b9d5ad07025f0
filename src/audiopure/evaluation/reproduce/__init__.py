"""Every table and figure of AudioPure's paper again: what to run, what was published, both side by side."""
