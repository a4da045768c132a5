"""Where packets come from: captures in files and streams."""
