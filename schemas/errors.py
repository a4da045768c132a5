"""Errors that a user can cause or mend: one readable line, and the exit code it ends the process with."""

from __future__ import annotations


class FlowgaugeError(Exception):
    """A failure told to the user in one line, without a traceback."""

    exit_code = 1


class SettingsError(FlowgaugeError):
    """A setting, flag or environment variable that cannot be used; the message names the key."""

    exit_code = 2


class InputError(FlowgaugeError):
    """A file or stream that cannot be read; the message names it."""

    exit_code = 3


class BusError(FlowgaugeError):
    """The broker cannot be reached or refuses; the message names it."""

    exit_code = 4


class CodecError(FlowgaugeError):
    """Bytes that are not a message of the schema expected; the message says what is wrong with them."""

    exit_code = 5
