"""How does a run work?"""
