"""understudy: from a trained network without its data to one that can be deployed."""
