"""Training methods, one file each. Adding one is adding a file here that names its class ``METHOD``."""
