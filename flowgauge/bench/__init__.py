"""``flowgauge bench``: what each stage of the system does on this machine, beside other programs on the same file."""
