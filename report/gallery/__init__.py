"""A gallery that exists: must it be embedded again for another model, or is there something cheaper."""
