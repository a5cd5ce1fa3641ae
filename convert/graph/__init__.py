"""A TFLite flatbuffer as objects: read, edit, run, repair, operator versions."""
