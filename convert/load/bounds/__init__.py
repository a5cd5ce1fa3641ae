"""How large a model may be: held against its file, and against what TensorFlow is about to run, before memory is."""
