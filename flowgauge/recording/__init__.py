"""Topics into Parquet: each message is in exactly one file, whatever happens to the process.

A topic-partition's messages are held in memory (``segment.py``) until it is time for files. ``store.py`` writes these
beside the data, notes them together with the offsets they cover in one small file, and only then gives them their
names: that note is what a restart goes by.
"""
