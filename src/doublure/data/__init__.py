"""How do bytes become tensors?"""
