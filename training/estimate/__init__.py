"""What a run will need, before it begins: parameters, memory, compute and time, counted on networks without weights."""
