collect_ignore = [
    "inside",
    "testpack",
]  # the host's Python runs them: see test_inside.py and harness/server.py
