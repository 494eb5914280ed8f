"""A backbone file of any layout, read in one way."""
