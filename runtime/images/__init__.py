"""Where images come from; one file a format, opened lazily by a table of suffixes."""
