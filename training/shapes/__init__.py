"""The Shapes world measured: the demo, the comparison, and who takes part in it."""
