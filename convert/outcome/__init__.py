"""What the user reads: the table, which file to ship, what was decided."""
