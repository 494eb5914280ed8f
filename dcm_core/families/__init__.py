"""One file for each backbone family: its names in every layout, its schedule, what marks its network."""
