"""Data sets, one file each. Adding one is adding a file here that names its class ``DATA``, whose
``Options`` are the model of its own options."""
