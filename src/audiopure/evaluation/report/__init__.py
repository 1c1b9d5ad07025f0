"""A report card for the terminal, as Markdown and as a page."""
