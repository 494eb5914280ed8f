collect_ignore = ["testpack"]  # a pack for the host: see harness/server.py
