"""How is it deployed?"""
