"""Errors a user can act on. The command line prints their message and exits with status 2."""


class AudiopureError(Exception):
    """Base of every error raised on purpose; its message is one sentence meant for the user."""


class InputError(AudiopureError, ValueError):
    """Audio, arguments or configuration that cannot be used as given."""


class WeightsError(AudiopureError, ValueError):
    """A weights file that is missing, damaged, or belongs to another architecture."""


class MissingExtraError(AudiopureError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""
