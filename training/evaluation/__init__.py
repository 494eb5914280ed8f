"""How far a student is from its teacher: recipes of paths, the jump error, and what clips show beside each other."""
