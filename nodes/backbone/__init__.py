"""A backbone in the host: loading it, telling its family, and what of the host this relies on."""
