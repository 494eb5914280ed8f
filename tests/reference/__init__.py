"""The published inference of DCM on tiny random networks, from diffusers and peft alone: none of this project's code.

`python -m reference.write FOLDER` writes weights and what they must compute; tests/nodes/test_published.py
compares the nodes with it.
"""
