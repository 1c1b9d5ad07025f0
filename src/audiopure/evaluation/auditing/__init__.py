"""The gradient audit, and the search for what breaks a gradient."""
