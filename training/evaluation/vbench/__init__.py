"""VBench (arXiv 2311.17982) on finished videos, by its own package in an environment of its own.

Nothing here imports that package. What is said of it was read in https://github.com/Vchitect/VBench at 45e79ec.
"""
