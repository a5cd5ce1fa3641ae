"""How operators that TFLite lacks are spelled: tables of functions by operator, for :mod:`..spell`."""
