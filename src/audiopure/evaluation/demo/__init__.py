"""The demo: its experiment, its table and its page."""
