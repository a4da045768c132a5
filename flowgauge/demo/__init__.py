"""The demo: the whole system on one machine, replaying labelled traffic, and a view of what comes out."""
