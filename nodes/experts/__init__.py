"""Experts on a MODEL: checked, merged or laid beside it, and switched between while it is sampled."""
