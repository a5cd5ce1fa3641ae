"""The steps of one export, in the order of ``convert/pipeline.py``; each returns what it made and decided."""
