"""A loaded model, edited: cut at a layer, its random layers taken out, float32 throughout."""
