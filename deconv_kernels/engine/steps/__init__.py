"""What a network is made of: each step knows how to run forward and how to send signal backwards."""
