"""How does it leave?"""
