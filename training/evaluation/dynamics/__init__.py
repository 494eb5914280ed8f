"""How a consistency network learns at one noise level and another, and where two experts should share them."""
