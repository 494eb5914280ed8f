"""What the nodes share towards the user: inputs, link types, messages, folders."""
