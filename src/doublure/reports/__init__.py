"""How are results presented?"""
