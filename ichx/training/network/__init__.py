"""What learns: the network, its weights, its steps, and what the method does to them."""
