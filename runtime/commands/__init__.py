"""Embed-tflite, inspect-tflite, and the options that all commands share."""
