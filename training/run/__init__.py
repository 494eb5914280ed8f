"""What carries a run: random draws, optimizers, checkpoints, and the record of what weights were trained with."""
