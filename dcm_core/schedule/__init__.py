"""The noise grid, kappa, and who acts: the only place where a boundary is computed."""
