"""The command line and the settings file: the only package that knows all others."""
